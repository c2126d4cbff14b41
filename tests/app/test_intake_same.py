"""Two encodings of one instance are one; anything else is not. dcmtk transcodes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.intake import comparer, same
from app.intake.comparer import CRASHED, Comparer
from app.intake.same import compare
from tests.app.conftest import until
from tests.app.instances import encoded, instance

pytestmark = pytest.mark.skipif(shutil.which("dcmconv") is None, reason="dcmtk is not installed")


def original() -> Dataset:
    """With what an encoding treats in its own way: sequences, ambiguous and private VRs, words."""
    dataset = instance(1)
    dataset.PatientID = "P1"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller^Änne"
    dataset.SliceThickness = "1.50"
    dataset.SmallestImagePixelValue = -5
    dataset["SmallestImagePixelValue"].VR = "SS"
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "T-A0100", "Brain"
    item.PurposeOfReferenceCodeSequence = Sequence([Dataset()])
    dataset.AnatomicRegionSequence = Sequence([item, Dataset()])
    dataset.private_block(0x0029, "ACME 1.0", create=True).add_new(0x01, "LO", "private text")
    dataset.add_new(0x00281201, "OW", b"\x01\x02\x03\x04")
    noise = np.random.default_rng(1).integers(-1000, 1000, (32, 32))
    dataset.PixelData = noise.astype("<i2").tobytes()
    return dataset


def put(path: Path, dataset: Dataset) -> Path:
    path.write_bytes(encoded(dataset))
    return path


def transcode(path: Path, tool: str, *options: str) -> Path:
    made = path.with_name(f"{tool}{''.join(options)}.dcm")
    subprocess.run([tool, *options, path, made], check=True, capture_output=True)
    return made


@pytest.mark.parametrize(
    "command",
    [
        "dcmconv +ti",
        "dcmconv +tb",
        "dcmconv +td",
        "dcmconv +te +g",
        "dcmconv +te -e",
        "dcmconv +te +p 512 64",
        "dcmcrle",
        "dcmcjpls",
    ],
)
def test_another_encoding_is_the_same_instance(tmp_path: Path, command: str) -> None:
    first = put(tmp_path / "first.dcm", original())
    second = transcode(first, *command.split())

    assert second.read_bytes() != first.read_bytes()
    assert compare(first, second) == compare(second, first) == same.Comparison("same")
    if command.startswith("dcmconv"):  # against a compressed one as well
        assert compare(second, transcode(first, "dcmcrle")).relation == "same"


def change_pixel(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2] + b"\x01\x01"


def change_value(dataset: Dataset) -> None:
    dataset.SliceThickness = "1.51"


def change_item(dataset: Dataset) -> None:
    dataset.AnatomicRegionSequence[0].CodeValue = "T-A0101"


def drop_element(dataset: Dataset) -> None:
    del dataset.SliceThickness


def change_private(dataset: Dataset) -> None:
    dataset[0x00291001].value = "other text"


def cut_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-64]


@pytest.mark.parametrize(
    ("alter", "why"),
    [
        (change_pixel, "the pixels differ"),
        (change_value, r"\(0018,0050\)"),
        (change_item, r"\(0008,2218\)"),
        (drop_element, r"\(0018,0050\)"),
        (change_private, r"\(0029,1001\)"),
        (cut_pixels, "can't be compared decoded"),
    ],
)
@pytest.mark.parametrize("command", ["dcmconv +ti", "dcmcrle"])
def test_what_differs_is_another_content(
    tmp_path: Path, alter: Callable[[Dataset], None], why: str, command: str
) -> None:
    first = put(tmp_path / "first.dcm", original())
    second = transcode(first, *command.split())
    altered = original()
    alter(altered)

    found = compare(second, put(tmp_path / "altered.dcm", altered))

    assert found.relation == "other"
    assert re.search(why, found.why)


def test_a_lossy_copy_is_another_content(tmp_path: Path) -> None:
    dataset = original()
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 7, 0
    del dataset.SmallestImagePixelValue
    dataset.BitsAllocated = 8
    dataset.PixelData = np.random.default_rng(1).integers(0, 255, 1024).astype("u1").tobytes()
    first = put(tmp_path / "first.dcm", dataset)

    lossy = transcode(first, "dcmcjpeg", "+eb", "+un")

    assert dcmread(lossy).SOPInstanceUID == dataset.SOPInstanceUID
    assert compare(first, lossy).relation == "other"
    unsaid = dcmread(lossy)  # a sender that does not say that it was lossy
    for tag in (t for t in list(unsaid.keys()) if t not in dataset):
        del unsaid[tag]
    unsaid.update({e.tag: e for e in dataset if e.tag != 0x7FE00010})
    assert compare(first, put(tmp_path / "unsaid.dcm", unsaid)).why == "the pixels differ"


def test_a_change_of_the_patient_alone_is_told_apart(tmp_path: Path) -> None:
    first = put(tmp_path / "first.dcm", original())
    merged = original()
    merged.PatientID, merged.IssuerOfPatientID, merged.PatientName = "P2", "SITE", "Other^Name"
    second = put(tmp_path / "merged.dcm", merged)

    found = compare(transcode(first, "dcmcrle"), second)
    assert found.relation == "identity"
    assert "P2" not in found.why and "(0010,0020)" in found.why
    merged.AccessionNumber = "7"
    assert compare(first, put(second, merged)).relation == "other"


def test_what_is_too_large_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = put(tmp_path / "first.dcm", original())
    bomb = original()
    bomb.PixelData = bytes(1 << 20)
    deflated = transcode(put(tmp_path / "bomb.dcm", bomb), "dcmconv", "+td")
    monkeypatch.setattr(same, "MAX_BYTES", 1 << 19)

    assert deflated.stat().st_size < same.MAX_BYTES
    assert "so not compared" in compare(first, deflated).why


def test_no_bytes_make_it_raise(tmp_path: Path) -> None:
    first = put(tmp_path / "first.dcm", original())
    content = first.read_bytes()
    for length in range(0, len(content) - 1, 97):
        (tmp_path / "cut.dcm").write_bytes(content[:length])
        assert compare(first, tmp_path / "cut.dcm").relation == "other"
    assert compare(first, tmp_path / "absent.dcm").relation == "other"


def test_a_process_of_its_own_answers_and_its_crash_is_an_answer(tmp_path: Path) -> None:
    first = put(tmp_path / "first.dcm", original())
    second = transcode(first, "dcmcrle")
    asked = Comparer(patience_s=60.0)
    assert asked.ask(first, second) == same.Comparison("same")
    asked.close()

    impatient = Comparer(patience_s=0.0)
    assert impatient.ask(first, second) is None
    assert impatient._child is not None
    impatient._child.kill()
    impatient._child.wait()
    assert impatient.ask(first, second) == CRASHED
    assert until(lambda: impatient.ask(first, second)) == same.Comparison("same")
    impatient.close()


def test_a_comparison_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # opening it waits for a writer
    monkeypatch.setattr(comparer, "PAIR_SECONDS", 0.0)

    found = Comparer(patience_s=0.1).ask(fifo, fifo)

    assert found is not None and "not within" in found.why


def test_what_is_too_large_to_be_decoded_is_the_same_where_every_byte_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    first.write_bytes(b"a" * 200)
    again.write_bytes(b"a" * 200)
    other.write_bytes(b"a" * 199 + b"b")
    monkeypatch.setattr(same, "MAX_BYTES", 100)
    assert compare(first, again).relation == "same"
    assert compare(first, other).relation == "other"
