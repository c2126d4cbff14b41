"""A folder in, studies and named refusals out: grouping, identity, duplicates, links."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from operators.study.read import read_drop
from tests.series import Ball, centred_grid, render, stable_uid, write_ct_series

SHAPE = (4, 40, 36)
AFFINE = centred_grid(SHAPE, (2.5, 0.8, 1.1))
ARRAY = render([Ball((1.0, 2.0, -1.0), 5.0, 1500)], SHAPE, AFFINE)
DCMCONV = shutil.which("dcmconv")


def write(folder, **options):
    return write_ct_series(folder, ARRAY, AFFINE, **options)


def codes(drop):
    return [entry.reason[:7] for entry in drop.refused]


def test_files_are_grouped_by_their_uids_whatever_their_names_and_folders(tmp_path):
    write(tmp_path / "a" / "b", series="one")
    write(tmp_path / "c", series="two")
    write(tmp_path / "d", study="later", series="one")
    for number, path in enumerate(sorted(tmp_path.rglob("*.dcm"))):
        path.rename(path.with_name(f"I{number * 7 % 13}_{number}"))

    studies = read_drop(tmp_path).studies

    found = {
        study.study_instance_uid: {s.series_instance_uid: len(s.instances) for s in study.series}
        for study in studies
    }
    assert found == {
        stable_uid("PHANTOM-1", "study"): {
            stable_uid("PHANTOM-1", "study", "one"): 4,
            stable_uid("PHANTOM-1", "study", "two"): 4,
        },
        stable_uid("PHANTOM-1", "later"): {stable_uid("PHANTOM-1", "later", "one"): 4},
    }
    assert [study.study_instance_uid for study in studies] == sorted(found)


def test_header_holds_everything_but_the_pixels(tmp_path):
    paths = write(tmp_path)
    full = dcmread(paths[0])
    del full.PixelData

    images = read_drop(tmp_path).studies[0].series[0].instances
    header = next(i.header for i in images if i.path == paths[0])

    assert {e.tag: e.value for e in header} == {e.tag: e.value for e in full}
    assert header.file_meta.TransferSyntaxUID == full.file_meta.TransferSyntaxUID


def test_a_file_is_read_alone_whatever_lies_beside_it(tmp_path):
    first, *_ = write(tmp_path, series="one")
    write(tmp_path / "more", series="two")
    (tmp_path / "broken.dcm").write_bytes(b"no DICOM")

    drop = read_drop(first)
    broken = read_drop(tmp_path / "broken.dcm")

    (series,) = drop.studies[0].series
    assert [instance.path for instance in series.instances] == [first]
    assert drop.refused == ()
    assert [entry.what for entry in broken.refused] == ["broken.dcm"]
    assert codes(broken)[0].startswith("RL-01")


def test_an_empty_folder_is_an_empty_drop(tmp_path):
    drop = read_drop(tmp_path)

    assert (drop.studies, drop.refused) == ((), ())


def test_a_missing_folder_is_the_callers_mistake(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_drop(tmp_path / "nowhere")


def test_a_bad_file_does_not_stop_the_others(tmp_path):
    write(tmp_path)
    (tmp_path / "00002.dcm").write_bytes((tmp_path / "00002.dcm").read_bytes()[:700])

    drop = read_drop(tmp_path)

    assert [entry.what for entry in drop.refused] == ["00002.dcm"]
    assert codes(drop) == ["RL-0104"]
    assert len(drop.studies[0].series[0].instances) == 3


def test_an_image_without_pixels_is_refused_by_name(tmp_path):
    def without(dataset, k):
        if k == 2:
            del dataset.PixelData

    write(tmp_path, edit=without)

    assert codes(read_drop(tmp_path)) == ["RL-0114"]


def test_a_report_stays_a_series_of_its_own_modality(tmp_path):
    def as_report(dataset, _):
        dataset.Modality = "SR"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
        del dataset.PixelData, dataset.Rows, dataset.Columns

    write(tmp_path / "ct")
    write_ct_series(tmp_path / "sr", ARRAY[:1], AFFINE, series="report", edit=as_report)

    (study,) = read_drop(tmp_path).studies

    assert sorted(series.modality for series in study.series) == ["CT", "SR"]


# Two of one name


def test_the_same_bytes_twice_count_once(tmp_path):
    write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    (study,) = read_drop(tmp_path).studies

    assert len(study.series[0].instances) == 4


@pytest.mark.skipif(DCMCONV is None, reason="dcmconv (Debian package dcmtk) is missing")
@pytest.mark.parametrize("option", ["+ti", "+td", "+e", "-e"])
def test_the_same_content_in_another_encoding_counts_once(tmp_path, option):
    def with_private_and_sequence(dataset, _):
        block = dataset.private_block(0x0019, "MAKER 1", create=True)
        block.add_new(0x10, "LO", "value")
        item = dataset.__class__()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "x"
        dataset.ProcedureCodeSequence = [item]

    paths = write(tmp_path / "a", edit=with_private_and_sequence)
    (tmp_path / "b").mkdir()
    for path in paths:
        subprocess.run([DCMCONV, option, path, tmp_path / "b" / path.name], check=True)
    assert paths[0].read_bytes() != (tmp_path / "b" / paths[0].name).read_bytes()

    drop = read_drop(tmp_path)

    assert drop.refused == ()
    assert len(drop.studies[0].series[0].instances) == 4


def test_the_same_pixels_compressed_without_loss_count_once(tmp_path):
    def unsigned(dataset, _):
        dataset.PixelRepresentation = 0
        dataset.RescaleIntercept = "-1024"
        signed = np.frombuffer(dataset.PixelData, "<i2")
        dataset.PixelData = (signed + 1024).astype("<u2").tobytes()

    def compressed(dataset, k):
        unsigned(dataset, k)
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)

    write(tmp_path / "a", edit=unsigned)
    write(tmp_path / "b", edit=compressed)

    drop = read_drop(tmp_path)

    assert drop.refused == ()
    assert len(drop.studies[0].series[0].instances) == 4


@pytest.mark.parametrize("what", ["pixel", "element"])
def test_one_uid_with_two_contents_refuses_the_study_with_both_digests(tmp_path, what):
    def other(dataset, k):
        if k == 2 and what == "pixel":
            dataset.PixelData = dataset.PixelData[:-2] + b"\x01\x00"
        if k == 2 and what == "element":
            dataset.KVP = "100"

    write(tmp_path / "a")
    write(tmp_path / "b", edit=other)
    write(tmp_path / "c", study="another")

    drop = read_drop(tmp_path)

    assert codes(drop) == ["RL-0202"]
    assert drop.refused[0].what == stable_uid("PHANTOM-1", "study")
    digests = [word for word in drop.refused[0].reason.replace(")", " ").split() if len(word) == 64]
    assert len(set(digests)) == 2
    assert [s.study_instance_uid for s in drop.studies] == [stable_uid("PHANTOM-1", "another")]


def test_one_instance_uid_in_two_studies_refuses_both(tmp_path):
    def same_uid(dataset, k):
        dataset.SOPInstanceUID = f"1.2.3.{k}"

    write(tmp_path / "a", edit=same_uid)
    write(tmp_path / "b", study="another", edit=same_uid)

    drop = read_drop(tmp_path)

    assert drop.studies == ()
    assert codes(drop) == ["RL-0202", "RL-0202"]


# Whose study


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"PatientID": "OTHER"}, ["RL-0201"]),
        ({"PatientID": ""}, ["RL-0201"]),
        ({"IssuerOfPatientID": "ELSEWHERE"}, ["RL-0201"]),
        ({"PatientID": "PHANTOM-1 "}, []),
        ({"PatientName": "PHANTOM^ANALYTIC^^^"}, []),
    ],
)
def test_one_foreign_instance_refuses_the_study(tmp_path, elements, code):
    def foreign(dataset, k):
        if k == 1:
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)

    write(tmp_path, edit=foreign)
    drop = read_drop(tmp_path)

    assert codes(drop) == code
    assert len(drop.studies) == (0 if code else 1)
    assert all("OTHER" not in entry.reason for entry in drop.refused)


def test_without_patient_ids_different_names_are_different_patients(tmp_path):
    def nameless(dataset, k):
        dataset.PatientID = ""
        dataset.PatientName = "Doe^Jane" if k else "Roe^Richard"

    write(tmp_path, edit=nameless)

    assert codes(read_drop(tmp_path)) == ["RL-0201"]


def test_another_name_under_one_id_is_warned_of_without_the_name(tmp_path):
    def renamed(dataset, k):
        dataset.PatientName = "Doe^Jane" if k else "Roe^Richard"

    write(tmp_path, edit=renamed)
    (study,) = read_drop(tmp_path).studies

    assert study.warnings == ("PatientName is written in 2 different ways",)


# What is no plain file


def test_links_out_of_the_folder_are_refused_and_inside_it_followed(tmp_path):
    write(tmp_path / "outside")
    write(tmp_path / "drop", series="inside")
    (tmp_path / "drop" / "escape.dcm").symlink_to(tmp_path / "outside" / "00001.dcm")
    (tmp_path / "drop" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "drop" / "again.dcm").symlink_to(tmp_path / "drop" / "00001.dcm")
    (tmp_path / "drop" / "nowhere.dcm").symlink_to(tmp_path / "gone")
    (tmp_path / "drop" / "loop").symlink_to(tmp_path / "drop" / "loop")

    drop = read_drop(tmp_path / "drop")

    assert {entry.what: entry.reason[:7] for entry in drop.refused} == {
        "escape.dcm": "RL-0101",
        "folder": "RL-0101",
        "nowhere.dcm": "RL-0113",
        "loop": "RL-0113",
    }
    assert [len(series.instances) for series in drop.studies[0].series] == [4]


def test_a_pipe_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever

    drop = read_drop(tmp_path)

    assert [(entry.what, entry.reason[:7]) for entry in drop.refused] == [("pipe", "RL-0101")]


@pytest.fixture
def deep_folder(tmp_path):
    """Deeper than Python recurses; taken away again, since pytest's own clean-up recurses too."""
    made = []
    deep = str(tmp_path)
    while len(deep) < 3800:
        deep += "/d"
        os.mkdir(deep)  # noqa: PTH102  pathlib recurses
        made.append(deep)
    yield deep
    for folder in reversed(made):
        os.rmdir(folder)  # noqa: PTH106


def test_a_deep_tree_of_folders_is_read(tmp_path, deep_folder):
    file = Path(deep_folder) / "empty"
    file.write_bytes(b"")

    drop = read_drop(tmp_path)
    file.unlink()

    assert codes(drop) == ["RL-0102"]


def test_a_name_that_is_no_text_can_be_printed(tmp_path):
    (tmp_path / os.fsdecode(b"\xff\x1b[31m.dcm")).write_bytes(b"")

    (refused,) = read_drop(tmp_path).refused

    refused.what.encode("utf-8")
    assert "\x1b" not in refused.what


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", ["", "../../etc/x", "1.2.03", "1" * 65, "1.2\\1.3", None])
def test_a_wrong_uid_refuses_the_file_by_name_without_the_value(tmp_path, keyword, value):
    def wrong(dataset, k):
        if k == 0 and value is None:
            delattr(dataset, keyword)
        elif k == 0:
            dataset[keyword]._value = value

    paths = write(tmp_path)
    dataset = dcmread(paths[0])
    wrong(dataset, 0)
    dataset.save_as(paths[0])

    drop = read_drop(tmp_path)

    assert codes(drop) == ["RL-0108"]
    assert keyword in drop.refused[0].reason
    assert value in (None, "") or value not in drop.refused[0].reason
    assert len(drop.studies[0].series[0].instances) == 3


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", b"3,906\\3,906 "),
        ("RescaleSlope", b"nan "),
        ("ImagePositionPatient", b"0\\0\\inf "),
        ("ImagePositionPatient", b"0\\\\1 "),
        ("AcquisitionNumber", b"one "),
    ],
)
def test_a_number_that_is_none_refuses_the_file_by_name(tmp_path, keyword, value):
    paths = write(tmp_path)
    dataset = dcmread(paths[1])
    # As raw bytes: pydicom writes no wrong value by itself.
    tag = dataset[keyword].tag
    dataset[tag] = dataset.get_item(tag)
    raw = dcmread(paths[1]).get_item(tag)
    dataset._dict[tag] = raw._replace(value=value, length=len(value))
    dataset.save_as(paths[1])

    drop = read_drop(tmp_path)

    assert codes(drop) == ["RL-0110"]
    assert keyword in drop.refused[0].reason
