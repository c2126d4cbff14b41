"""What routes may ask: right from every encoding, bounded, and never who the patient is."""

from __future__ import annotations

import tracemalloc
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.intake.peek import PREFIXES, UnreadableError
from app.routes.facts import DISTINCT, Gathering, InstanceFacts, read_instance, read_studies
from tests.app.instances import STUDY, encoded, instance, write

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


def described(number: int = 1, **changes: object) -> Dataset:
    dataset = instance(number, syntax=str(changes.pop("syntax", ExplicitVRLittleEndian)))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.StudyDescription, dataset.SeriesDescription = "CT Schädel", "axial 1.0"
    dataset.BodyPartExamined, dataset.ProtocolName = "HEAD", "Trauma"
    dataset.StationName, dataset.ImageType = "CTAWP1", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientID, dataset.PatientBirthDate = "SECRET-4711", "19331224"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def facts_of(folder: Path, dataset: Dataset) -> InstanceFacts:
    (path,) = write(folder, dataset)
    return read_instance(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_everything_is_read_from_every_encoding_and_no_patient(tmp_path: Path, syntax: str) -> None:
    facts = facts_of(tmp_path, described(syntax=syntax))

    assert facts.study_instance_uid == STUDY and facts.series_instance_uid == f"{STUDY}.8"
    assert facts.study_description == "CT Schädel"
    assert facts.values == {
        "modality": ("CT",),
        "body_part": ("HEAD",),
        "series_description": ("axial 1.0",),
        "protocol_name": ("Trauma",),
        "manufacturer": ("ACME",),
        "station_name": ("CTAWP1",),
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
    }
    told = repr(asdict(facts))
    assert not any(secret in told for secret in ("Test", "SECRET", "1933"))


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO_IR 100", "Schädel"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "やまだ"),
        ("GB18030", "王小东"),
    ],
)
def test_descriptions_are_decoded_as_declared(
    tmp_path: Path, charset: str | list[str], text: str
) -> None:
    dataset = described(SpecificCharacterSet=charset, SeriesDescription=text)

    assert facts_of(tmp_path, dataset).values["series_description"] == (text,)


def test_what_is_absent_is_an_empty_value_and_no_control_character_gets_through(
    tmp_path: Path,
) -> None:
    dataset = described(SeriesDescription="a\x1b[31mb" + "c" * 90)
    del dataset.BodyPartExamined, dataset.StudyDescription

    facts = facts_of(tmp_path, dataset)

    assert facts.values["body_part"] == ("",) and facts.study_description == ""
    (shown,) = facts.values["series_description"]
    assert shown.startswith("a?[31mbc") and len(shown) == 64


@settings(max_examples=100, deadline=None)
@given(data=st.data(), syntax=st.sampled_from(SYNTAXES))
def test_a_cut_file_gives_the_right_uids_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, syntax: str
) -> None:
    content = encoded(described(syntax=syntax))
    path = tmp_path_factory.getbasetemp() / "cut.dcm"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        facts = read_instance(path)
    except UnreadableError:
        return

    assert facts.study_instance_uid == STUDY
    assert facts.series_instance_uid in ("", f"{STUDY}.8")


def test_a_deflate_bomb_costs_no_more_than_the_prefix(tmp_path: Path) -> None:
    start = encoded(instance(syntax=DeflatedExplicitVRLittleEndian))
    meta_end = 144 + int.from_bytes(start[140:144], "little")
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(b"\x08\x00\x05\x00OB\0\0" + (150 << 20).to_bytes(4, "little"))
    for _ in range(150):
        bomb += deflater.compress(bytes(1 << 20))
    path = tmp_path / "bomb.dcm"
    path.write_bytes(start[:meta_end] + bomb + deflater.flush())

    tracemalloc.start()
    with pytest.raises(UnreadableError):
        read_instance(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 * PREFIXES[-1]


def test_localizers_are_no_slices_and_are_asked_only_where_there_is_nothing_else(
    tmp_path: Path,
) -> None:
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesDescription": "scout"}
    images = [described(n, SeriesDescription=f"part {n % 2}") for n in range(5)]
    images += [described(9, **scout), described(10, **scout, SeriesInstanceUID=f"{STUDY}.7")]

    (study,), unreadable = read_studies(write(tmp_path, *images), calling_aet=" CT1 ")

    scouts, series = study.series
    assert (series.instances, series.slices, scouts.instances, scouts.slices) == (6, 5, 1, 0)
    assert series.values["series_description"] == ("part 0", "part 1")
    assert scouts.values["series_description"] == ("scout",)
    assert study.study_values == {
        "calling_aet": ("CT1",),
        "called_aet": (),
        "source": (),
        "study_description": ("CT Schädel",),
    }
    assert unreadable == 0


def test_a_peer_can_not_fill_the_memory_with_different_values() -> None:
    study = Gathering(STUDY)
    for n in range(10 * DISTINCT):
        values = {name: (f"{name} {n}",) for name in ("modality", "body_part")}
        values["image_type"] = ("ORIGINAL",)
        study.add(InstanceFacts(STUDY, f"{STUDY}.8", f"study {n}", values), calling_aet=f"A{n}")

    (series,) = study.facts().series
    assert series.slices == 10 * DISTINCT
    assert {len(series.values["modality"]), len(study.facts().study_values["calling_aet"])} == {
        DISTINCT
    }


def test_reading_facts_imports_no_model_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, app.routes.plan, app.routes.load, app.routes.facts, app.routes.site\n"
        "print([m for m in ('torch', 'monai', 'highdicom', 'holoscan') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
