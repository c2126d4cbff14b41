"""Delivery: results to where people look, and read back before they count as delivered.

A destination is a small class behind `destination.Destination`; `from_settings`
makes those that a site has configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.delivery.destination import Destination
    from app.settings import Settings


def from_settings(settings: Settings) -> list[Destination]:
    """The configured destinations; empty where results only stay in the output folder.

    Their libraries are imported here, in the caller's thread, and not when a courier
    first needs them: two threads that import the same packages can meet half of one.
    """
    destinations: list[Destination] = []
    if settings.orthanc_url:
        from app.delivery.orthanc import OrthancDestination

        password = settings.orthanc_password
        destinations.append(
            OrthancDestination(
                settings.orthanc_url,
                user=settings.orthanc_user,
                password=password.get_secret_value() if password else None,
            )
        )
    if settings.deliver_to_folder:
        from app.delivery.folder import FolderDestination

        destinations.append(FolderDestination(settings.deliver_to_folder))
    if settings.deliver_to_cstore:
        from app.delivery.cstore import CStoreDestination
        from app.settings import parse_cstore_target

        aet, host, port = parse_cstore_target(settings.deliver_to_cstore)
        destinations.append(CStoreDestination(aet, host, port, calling_aet=settings.ae_title))
    return destinations
