"""A tiny archive for machines without Orthanc: takes C-STORE into a folder and lists it.

No REST, no viewer, no database: enough for the demo to have somewhere to
deliver. It runs in threads of the caller's process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.demo.orthanc import require_free

if TYPE_CHECKING:
    from pynetdicom.events import Event

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700


@dataclass(frozen=True)
class Stored:
    """One object in the archive.

    Attributes
    ----------
    path : Path
        Its file.
    modality : str
        (0008,0060).
    sop_instance_uid, series_instance_uid, study_instance_uid : str
        Its place.
    """

    path: Path
    modality: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class Archive:
    """A running archive.

    Attributes
    ----------
    aet, host, port : str, str, int
        Where it takes C-STORE; `target` is the same for RADLOOP_DELIVER_TO_CSTORE.
    folder : Path
        Its files.
    """

    aet: str
    host: str
    port: int
    folder: Path

    @property
    def target(self) -> str:
        """``AET@host:port``."""
        return f"{self.aet}@{self.host}:{self.port}"

    def objects(self, study_instance_uid: str | None = None) -> list[Stored]:
        """What is stored, of one study or of all, by modality and UID."""
        from pydicom import dcmread

        found = []
        for path in self.folder.glob("*.dcm"):
            header = dcmread(path, stop_before_pixels=True)
            if study_instance_uid in (None, header.StudyInstanceUID):
                found.append(
                    Stored(
                        path,
                        str(header.Modality),
                        str(header.SOPInstanceUID),
                        str(header.SeriesInstanceUID),
                        str(header.StudyInstanceUID),
                    )
                )
        return sorted(found, key=lambda item: (item.modality, item.sop_instance_uid))


@contextmanager
def running_archive(folder: Path, *, port: int = 0, aet: str = "ARCHIVE") -> Iterator[Archive]:
    """An archive while the block runs.

    Parameters
    ----------
    folder : Path
        Made if missing, kept afterwards.
    port : int
        Loopback port; 0 takes a free one.
    aet : str
        Its AE title.

    Raises
    ------
    DemoPortTaken
        Somebody listens on that port.
    """
    from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    if port:
        require_free(port, "the demo archive's C-STORE")
    folder.mkdir(parents=True, exist_ok=True)
    entity = AE(ae_title=aet)
    for context in AllStoragePresentationContexts:
        if context.abstract_syntax is not None:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    entity.add_supported_context(Verification)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, _store, [folder])]
    )
    assert server is not None  # block=False
    try:
        yield Archive(aet, "127.0.0.1", int(server.server_address[1]), folder)
    finally:
        server.shutdown()


def _store(event: Event, folder: Path) -> int:
    uid = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
    final = folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm"
    temporary = final.with_suffix(".part")
    try:
        temporary.write_bytes(event.encoded_dataset())
        temporary.rename(final)
    except OSError:
        return OUT_OF_RESOURCES
    return SUCCESS
