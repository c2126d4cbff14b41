"""Encoded items against pydicom's writer, and a filled-in one against one made anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item
from pydicom.valuerep import DSfloat

from operators.evidence.encode import Stencil, encode_item, set_sequence

TEXT = st.text("ab ^Łä漢", max_size=12)
UIDS = st.from_regex(r"[12](\.[1-9][0-9]{0,8}){1,6}", fullmatch=True)


def by_pydicom(item: Dataset) -> bytes:
    """The item as pydicom writes it within a file in UTF-8."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_sequence_item(buffer, item, ["utf8"])
    return bytes(buffer.getvalue())


def dataset(**elements: object) -> Dataset:
    """A data set with these elements."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


CODES = st.builds(dataset, CodeValue=st.text("AB12", max_size=5), CodeMeaning=TEXT)
ITEMS = st.builds(
    dataset,
    RelationshipType=st.sampled_from(["CONTAINS", "HAS OBS CONTEXT", None]),
    ConceptNameCodeSequence=st.lists(CODES, max_size=2),
    TextValue=TEXT,
    PersonName=TEXT,
    UID=UIDS,
    ImageType=st.lists(st.sampled_from(["ORIGINAL", "AXIAL"]), max_size=3),
    ReferencedSegmentNumber=st.integers(0, 65535),
    NumericValue=st.floats(-1e6, 1e6).map(lambda value: DSfloat(value, auto_format=True)),
    ContentSequence=st.lists(
        st.builds(dataset, GraphicData=st.lists(st.integers(-99, 99), max_size=5)), max_size=2
    ),
)


@given(ITEMS)
def test_an_item_is_the_bytes_that_pydicom_writes(item: Dataset) -> None:
    assert encode_item(item) == by_pydicom(item)


@given(st.lists(CODES, max_size=3))
def test_encoded_items_are_written_and_read_as_if_they_were_data_sets(items: list[Dataset]) -> None:
    encoded = Dataset()
    set_sequence(encoded, "ContentSequence", map(encode_item, items))

    assert encode_item(encoded) == by_pydicom(dataset(ContentSequence=items))
    decoded = encoded.ContentSequence
    assert [by_pydicom(item) for item in decoded] == [by_pydicom(item) for item in items]


@given(st.lists(st.tuples(UIDS, st.lists(st.integers(-999, 999), min_size=3, max_size=3))))
def test_a_stencil_gives_what_an_item_of_these_values_gives(
    uses: list[tuple[str, list[int]]],
) -> None:
    """Lengths change from use to use, and so do those of everything around them."""
    source, place = dataset(ReferencedSOPInstanceUID=""), dataset(ImagePositionPatient=None)
    item = dataset(
        DerivationImageSequence=[dataset(SourceImageSequence=[source])],
        PlanePositionSequence=[place],
    )
    stencil = Stencil(item, (source, "ReferencedSOPInstanceUID"), (place, "ImagePositionPatient"))

    for uid, position in uses:
        anew = dataset(
            DerivationImageSequence=[
                dataset(SourceImageSequence=[dataset(ReferencedSOPInstanceUID=uid)])
            ],
            PlanePositionSequence=[dataset(ImagePositionPatient=list(map(str, position)))],
        )
        assert stencil.fill(uid, "\\".join(map(str, position))) == by_pydicom(anew)


def test_a_field_that_stands_twice_is_no_field() -> None:
    first, second = dataset(UID="1.2"), dataset(UID="1.2")
    stencil = Stencil(dataset(ContentSequence=[first, second]), (first, "UID"))

    with pytest.raises(ValueError, match="UID does not stand in the item once"):
        stencil.fill("1.2")
