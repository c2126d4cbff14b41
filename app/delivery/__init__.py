"""Delivery: results to where people look, and read back before they count as delivered.

A destination is a small class behind `destination.Destination`; `from_settings`
makes those that a site has configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.addresses import parse_cstore_target

if TYPE_CHECKING:
    from pydantic import SecretStr

    from app.addresses import Addresses, Kind
    from app.delivery.destination import Destination
    from app.delivery.rejections import Rejections
    from app.settings import Settings


def keys(settings: Settings) -> tuple[str, ...]:
    """The keys of the configured destinations; nothing is imported for it."""
    return (*settings.kinds, *settings.destinations)


def from_settings(settings: Settings) -> list[Destination]:
    """The configured destinations; empty where results only stay in the output folder.

    Their libraries are imported here, in the caller's thread, and not when a delivery
    first needs them: two threads that import the same packages can meet half of one.
    """
    from app.delivery.rejections import Rejections

    rejections = Rejections(settings.state_dir)
    return [
        *(_make(kind, kind, settings, settings, rejections) for kind in settings.kinds),
        *(
            _make(kind, key, address, settings, rejections)
            for key, address in settings.destinations.items()
            for kind in address.kinds
        ),
    ]


def _make(
    kind: Kind, key: str, address: Addresses, settings: Settings, rejections: Rejections
) -> Destination:
    if kind == "orthanc":
        from app.delivery.orthanc import OrthancDestination

        assert address.orthanc_url
        return OrthancDestination(
            address.orthanc_url,
            user=address.orthanc_user,
            password=_secret(address.orthanc_password),
            key=key,
        )
    if kind == "folder":
        from app.delivery.folder import FolderDestination

        assert address.deliver_to_folder
        return FolderDestination(address.deliver_to_folder, key=key)
    if kind == "stow":
        from app.delivery.stow import StowDestination

        assert address.deliver_to_stow
        return StowDestination(
            address.deliver_to_stow,
            rejections,
            user=address.stow_user,
            password=_secret(address.stow_password),
            token=_secret(address.stow_token),
            key=key,
        )
    return _cstore(key, address, settings, rejections)


def _cstore(
    key: str, address: Addresses, settings: Settings, rejections: Rejections
) -> Destination:
    from app.delivery.commitment import Commitments
    from app.delivery.cstore import CStoreDestination
    from app.delivery.tls import TlsFiles

    assert address.deliver_to_cstore
    aet, host, port = parse_cstore_target(address.deliver_to_cstore)
    tls = None
    if address.cstore_tls_ca:
        tls = TlsFiles(
            address.cstore_tls_ca, address.cstore_tls_certificate, address.cstore_tls_private_key
        )
    commitments = None
    if address.cstore_commitment:
        commitments = Commitments(
            settings.state_dir,
            address.cstore_commitment_ae_title,
            address.cstore_commitment_port,
            tls,
        )
    return CStoreDestination(
        aet,
        host,
        port,
        calling_aet=settings.ae_title,
        rejections=rejections,
        tls=tls,
        commitments=commitments,
        key=key,
    )


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None
