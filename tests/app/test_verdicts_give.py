"""What is refused before an archive is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.settings import Reader, Settings
from app.verdicts.give import give_verdict
from app.verdicts.refusals import ArchiveUnset, ReaderUnknown, ReasonUnfit


def site(folder: Path, **changes: Any) -> Settings:
    values = {
        "state_dir": folder / "state",
        "orthanc_url": "http://127.0.0.1:9",  # discard: nobody answers
        "readers": {"ada": Reader(name="Byron^Ada", organization="Engines")},
    }
    return Settings(**{**values, **changes})


@pytest.mark.parametrize("because", ["", " \n", "x" * 501, "bell\a", "lone \udce4 byte", "zero\0"])
def test_a_reason_that_no_report_could_show_is_refused(because: str, tmp_path: Path) -> None:
    with pytest.raises(ReasonUnfit, match="in 1 to 500 printable characters") as caught:
        give_verdict(site(tmp_path), "1.2", verdict="rejected", reader="ada", because=because)
    assert because.strip() == "" or because not in str(caught.value)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("readers", "says"),
    [
        ({}, "which is empty"),
        ({"ada": Reader(name="Byron^Ada", organization="Engines")}, "which has: ada"),
    ],
)
def test_an_unknown_reader_is_told_how_to_become_a_known_one(
    readers: dict[str, Reader], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ReaderUnknown, match=says) as caught:
        give_verdict(site(tmp_path, readers=readers), "1.2", verdict="confirmed", reader="Doe^J")
    assert "readers: {KEY: " in str(caught.value)
    assert "Doe" not in str(caught.value) and "Byron" not in str(caught.value)


def test_without_an_archive_there_is_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnset, match="RADLOOP_ORTHANC_URL"):
        give_verdict(site(tmp_path, orthanc_url=None), "1.2", verdict="confirmed", reader="ada")
