"""Earlier results read back from DICOM: SEG for the masks, SR for what readers said of them.

Masks are measured anew from the SEG, by the code that measures the present ones: an SR
holds no uncertainty. A segment is decoded only when it is asked for. Any maker's binary
SEG will do; whether radloop made one is told by its own word (`trace.py`), and whoever
keeps a register asks that first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
)

from operators.compared import Placed, Prior, PriorIdentity, Priors, PriorStructure
from operators.errors import FileRefusal, Refusal
from operators.evidence.trace import NotOurs, trace_file
from operators.findings.coverage import NAME as COVERAGE
from operators.findings.longitudinal import who_and_when
from operators.findings.matching import shifted
from operators.findings.prior_refusals import PriorRejected, PriorTooLarge, PriorUnusable
from operators.job import Code
from operators.study.layout import open_layout
from operators.volume.seg_grid import SegGrid, find_grid, read_mask

MAX_FILE_BYTES = 256 << 20
MAX_VOXELS = 1 << 30  # of one segment's grid, which is decoded at once
MAX_FRAME_PIXELS = 1 << 32  # of all frames: one bit each in memory
_REPORTS = frozenset({EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage})
# Titles of rejection notes (DCM, PS3.16 CID 7011) that speak against what they name.
_REJECTIONS = frozenset({"113001", "113037", "113038"})
_IMAGING_MEASUREMENTS = "126010"  # DCM; a reader's rejection has none (`app/verdicts/verify.py`)


@dataclass(frozen=True)
class _Document:
    """An SR, as far as it says what became of a SEG."""

    reference: tuple[str, str, str]
    segs: frozenset[str]
    verified: bool
    measures: bool
    replaces: frozenset[str]
    cut: str  # what it says of structures that go on outside the image


def read_priors(folder: Path, confirmed: Collection[str] = ()) -> Priors:
    """Every SEG below a folder, with the reports on it.

    Parameters
    ----------
    folder : Path
        Read recursively; what is no DICOM, SEG, SR or rejection note is passed over.
    confirmed : collection of str
        SOP Instance UIDs of SEGs of which it is known from elsewhere that a reader
        confirmed them.

    Returns
    -------
    Priors
        Those that can be read, and why the others can't.

    References
    ----------
    DICOM PS3.3 C.8.20.2 Segmentation Image, C.17.2 SR Document General (Verification Flag,
    Predecessor Documents). IHE Radiology, Imaging Object Change Management, RAD-66.
    """
    segs: list[tuple[Path, Dataset]] = []
    documents: list[_Document] = []
    left_out: list[str] = []
    taken_back: set[str] = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            # Walked first: no depth, length or number of elements is believed before.
            with open_layout(path) as layout:
                header = layout.read_header()
        except (FileRefusal, OSError):
            continue
        kind = str(header.get("SOPClassUID", ""))
        if kind == SegmentationStorage:
            segs.append((path, header))
        elif kind in _REPORTS:
            documents.append(_document(header))
        elif kind == KeyObjectSelectionDocumentStorage:
            taken_back |= _rejected(header)
    documents = [document for document in documents if document.reference[2] not in taken_back]
    results = []
    for path, header in segs:
        try:
            if str(header.get("SOPInstanceUID", "")) in taken_back:
                raise PriorRejected(str(header.SOPInstanceUID))
            results.append(_read(path, header, documents, confirmed))
        except Refusal as refusal:
            left_out.append(refusal.reason)
        # pydicom raises whatever a broken value happens to trip over.
        except Exception as error:  # noqa: BLE001
            why = f"a value is broken ({type(error).__name__})"
            left_out.append(PriorUnusable(_named(header), why).reason)
    if not segs:
        left_out.append("there is no SEG among the earlier results")
    return Priors(tuple(results), tuple(left_out))


def _named(header: Dataset) -> str:
    return f"SEG {str(header.get('SOPInstanceUID', ''))[:64]}"


def _read(
    path: Path, header: Dataset, documents: list[_Document], confirmed: Collection[str]
) -> Prior:
    uid, what = str(header.SOPInstanceUID), _named(header)
    if header.get("SegmentationType") != "BINARY":
        raise PriorUnusable(what, "it is no binary segmentation")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise PriorTooLarge(what, size, MAX_FILE_BYTES, "bytes")
    voxels = int(header.NumberOfFrames) * int(header.Rows) * int(header.Columns)
    if voxels > MAX_FRAME_PIXELS:
        raise PriorTooLarge(what, voxels, MAX_FRAME_PIXELS, "pixels")
    segmentation = hd.seg.segread(path)
    grid = find_grid(segmentation)
    if grid is None:
        raise PriorUnusable(what, "its frames lie on no one grid")
    if (voxels := int(np.prod(grid.shape))) > MAX_VOXELS:
        raise PriorTooLarge(what, voxels, MAX_VOXELS, "pixels")
    try:
        (traced,) = trace_file(path)
        model = traced.model
        ours, recorded_at = True, traced.recorded_at
    except NotOurs:
        model, ours, recorded_at = None, False, ""
    about = [document for document in documents if uid in document.segs]
    verified = [document for document in about if document.verified]
    replaced = frozenset().union(*(document.replaces for document in verified))
    last = [document for document in verified if document.reference[2] not in replaced]
    # Fail closed: where two last words differ, the result is not used.
    rejected = any(not document.measures for document in last)
    whose = who_and_when(header)
    return Prior(
        identity=PriorIdentity(
            study_instance_uid=whose.study_instance_uid,
            study_date=whose.study_date,
            seg_sop_instance_uid=uid,
            seg_series_instance_uid=str(header.SeriesInstanceUID),
            reports=tuple(sorted(document.reference for document in about)),
            confirmed=not rejected and (uid in confirmed or bool(last)),
            ours=ours,
            bundle=model.name if model else "",
            version=model.version if model else "",
            weights_sha256=model.weights_sha256 if model else "",
        ),
        whose=whose,
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID", "") or ""),
        structures=tuple(
            _structures(segmentation, grid, ours, [document.cut for document in about])
        ),
        rejected=rejected,
        recorded_at=recorded_at,
    )


def _document(header: Dataset) -> _Document:
    items = header.get("ContentSequence") or ()
    return _Document(
        reference=(
            str(header.SOPClassUID),
            str(header.get("SeriesInstanceUID", "")),
            str(header.get("SOPInstanceUID", "")),
        ),
        segs=frozenset(
            uid
            for kind, uid in _references(header, "CurrentRequestedProcedureEvidenceSequence")
            if kind == SegmentationStorage
        ),
        verified=header.get("VerificationFlag") == "VERIFIED",
        measures=any(
            name.get("CodeValue") == _IMAGING_MEASUREMENTS
            for item in items
            for name in item.get("ConceptNameCodeSequence") or ()
        ),
        replaces=frozenset(uid for _, uid in _references(header, "PredecessorDocumentsSequence")),
        cut="\n".join(text for text in _texts(items) if COVERAGE in text),
    )


def _rejected(header: Dataset) -> set[str]:
    """SOP Instance UIDs that a key object selection takes back; none where it is another one."""
    titles = {
        (str(name.get("CodingSchemeDesignator", "")), str(name.get("CodeValue", "")))
        for name in header.get("ConceptNameCodeSequence") or ()
    }
    if not any(scheme == "DCM" and code in _REJECTIONS for scheme, code in titles):
        return set()
    return {uid for _, uid in _references(header, "CurrentRequestedProcedureEvidenceSequence")}


def _texts(items: Iterable[Dataset]) -> Iterator[str]:
    """Every text of a content tree."""
    for item in items:
        if item.get("ValueType") == "TEXT":
            yield str(item.get("TextValue", ""))
        yield from _texts(item.get("ContentSequence") or ())


def _references(header: Dataset, keyword: str) -> Iterator[tuple[str, str]]:
    """SOP Class and Instance UIDs of a list by study and series (PS3.3 Table C.17-3)."""
    for study in header.get(keyword) or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for item in series.get("ReferencedSOPSequence") or ():
                yield (
                    str(item.get("ReferencedSOPClassUID", "")),
                    str(item.get("ReferencedSOPInstanceUID", "")),
                )


def _structures(
    segmentation: hd.seg.Segmentation, grid: SegGrid, ours: bool, cut: Sequence[str]
) -> Iterator[PriorStructure]:
    """All segments; `cut` is what each report on them says of structures that go on outside."""
    ends = _at_an_end(segmentation) if ours else {}
    for item in segmentation.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence") or ()
        number = int(item.SegmentNumber)
        at_an_end = ends.get(number)
        if any(str(item.SegmentLabel) in said for said in cut):
            at_an_end = True
        elif not cut and not at_an_end:
            at_an_end = None  # a mask alone does not tell where padding ended the image
        yield PriorStructure(
            number=number,
            # A label of ours; anybody else's may hold what a person wrote.
            label=str(item.SegmentLabel) if ours else f"segment {number}",
            category=_code(item.SegmentedPropertyCategoryCodeSequence[0]),
            type=_code(kind),
            laterality=_code(sides[0]) if sides else None,
            tracking_uid=str(item.get("TrackingUID", "") or ""),
            load=partial(_load, segmentation, grid, number, at_an_end),
        )


def _code(item: Dataset) -> Code:
    value = item.get("CodeValue") or item.get("LongCodeValue") or ""
    return Code(str(value), str(item.get("CodingSchemeDesignator", "")), str(item.CodeMeaning))


def _load(
    segmentation: hd.seg.Segmentation, grid: SegGrid, number: int, at_an_end: bool | None
) -> Placed:
    """One segment in its bounding box."""
    mask, affine = read_mask(segmentation, number, grid), grid.lps_from_index
    if not mask.any():
        return Placed(mask[:0], affine, None)
    box = tuple(
        slice(int(held[0]), int(held[-1]) + 1)
        for axis in range(3)
        for held in [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))]
    )
    at_edge = any(box[axis].start == 0 or box[axis].stop == mask.shape[axis] for axis in (1, 2))
    cut_off = True if at_edge else at_an_end
    return Placed(mask[box].copy(), shifted(affine, (box[0], box[1], box[2])), cut_off)


def _at_an_end(segmentation: hd.seg.Segmentation) -> dict[int, bool]:
    """Whether each segment of ours reaches the first or last slice; empty where that can't be told.

    A SEG has no empty frames, but ours names every slice of the volume, in its order.
    """
    slices = [
        str(item.ReferencedSOPInstanceUID)
        for series in segmentation.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedInstanceSequence") or ()
    ]
    if len(set(slices)) < len(slices) or not slices:
        return {}
    held: dict[int, set[str]] = defaultdict(set)
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for derived in frame.get("DerivationImageSequence") or ():
            for source in derived.get("SourceImageSequence") or ():
                held[number].add(str(source.ReferencedSOPInstanceUID))
    return {number: bool(uids & {slices[0], slices[-1]}) for number, uids in held.items()}
