"""Where the demo's results come back to: a private Orthanc, or the built-in archive."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from app.demo.archive import Archive
from app.demo.orthanc import Orthanc

RESULT_MODALITIES = ("SEG", "SR")


class Shelf(Protocol):
    """What the demo asks of an archive.

    Attributes
    ----------
    takes_verdicts : bool
        Whether `radloop confirm` can write into it.
    """

    takes_verdicts: ClassVar[bool]

    def settings(self) -> dict[str, str]:
        """Variables that make `radloop serve` deliver here."""

    def store(self, files: list[Path]) -> None:
        """Put the source images here by C-STORE, as a hospital's PACS has them."""

    def results(self, study_uid: str, folder: Path) -> list[Path]:
        """Fetch the SEG and SR objects of a study as ``SEG-1.dcm``, ``SR-1.dcm``…"""

    def link(self, study_uid: str) -> str | None:
        """A page to open."""


@dataclass(frozen=True)
class OrthancShelf:
    """A running private Orthanc."""

    orthanc: Orthanc
    takes_verdicts: ClassVar[bool] = True

    def settings(self) -> dict[str, str]:
        return {"RADLOOP_ORTHANC_URL": self.orthanc.url}

    def store(self, files: list[Path]) -> None:
        _send(self.orthanc.aet, self.orthanc.host, self.orthanc.dicom_port, files)

    def results(self, study_uid: str, folder: Path) -> list[Path]:
        client = self._client()
        study = client.studies.lookup(study_uid)
        fetched: list[Path] = []
        for series in client.studies.get_series_ids(study) if study else []:
            modality = client.series.get_tags(series).get("Modality")
            if modality not in RESULT_MODALITIES:
                continue
            for instance in client.series.get_instances_ids(series):
                count = sum(path.name.startswith(f"{modality}-") for path in fetched)
                path = folder / f"{modality}-{count + 1}.dcm"
                path.write_bytes(client.instances.get_file(instance))
                fetched.append(path)
        return fetched

    def link(self, study_uid: str) -> str | None:
        study = self._client().studies.lookup(study_uid)
        return f"{self.orthanc.url}/app/explorer.html#study?uuid={study}"

    def _client(self) -> Any:
        from orthanc_api_client import OrthancApiClient

        return OrthancApiClient(self.orthanc.url)


@dataclass(frozen=True)
class ArchiveShelf:
    """The built-in archive."""

    archive: Archive
    takes_verdicts: ClassVar[bool] = False

    def settings(self) -> dict[str, str]:
        return {"RADLOOP_DELIVER_TO_CSTORE": self.archive.target}

    def store(self, files: list[Path]) -> None:
        _send(self.archive.aet, self.archive.host, self.archive.port, files)

    def results(self, study_uid: str, folder: Path) -> list[Path]:
        fetched: list[Path] = []
        for modality in RESULT_MODALITIES:
            stored = [o for o in self.archive.objects(study_uid) if o.modality == modality]
            for number, item in enumerate(stored, start=1):
                path = folder / f"{modality}-{number}.dcm"
                shutil.copyfile(item.path, path)
                fetched.append(path)
        return fetched

    def link(self, study_uid: str) -> str | None:
        del study_uid  # it has no pages
        return None


def _send(aet: str, host: str, port: int, files: list[Path]) -> None:
    from app.delivery.cstore import CStoreDestination

    CStoreDestination(aet, host, port, "DEMO").deliver(files)
