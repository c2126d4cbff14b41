"""A series in, volumes out: the one place where a stack of slices becomes a grid.

What can be resolved is resolved openly, with a quality flag: localizers are left
out, equal duplicates are kept once, phases told apart by AcquisitionNumber become
volumes of their own. All else is refused by name: a wrong volume is never built.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from operators.errors import ModelRefusal, VolumeRefusal
from operators.job import Instance, Match, QualityFlag, Refused, Series, Unit, Volume
from operators.study.image_type import planar_type_of_series
from operators.volume.channels import stack_channels
from operators.volume.geometry import (
    MOST_TILT_DEG,
    Planes,
    affine_from_planes,
    check_one_grid,
    read_planes,
    shared_places,
)
from operators.volume.pixels import (
    check_supported,
    fits_int16,
    outside_value,
    padding_mask,
    read_rescale,
    read_stored,
    write_values,
)
from operators.volume.planar import PlanarChoice, build_planar
from operators.volume.planar_refusals import FrameOfStack
from operators.volume.refusals import (
    MissingGeometry,
    MixedFramesOfReference,
    MixedMatrixSizes,
    MultiframeImage,
    NotAnImageStack,
    OnlyLocalizers,
    RepeatedPositions,
)
from operators.volume.tilt import tilt_flags

NO_LOSS = (
    "RL-0101",
    "RL-0103",
    "RL-0111",
)  # a folder's other things: no regular file, no DICOM, DICOMDIR

_SLICE_CLASSES = frozenset({CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage})


@dataclass(frozen=True)
class _Part:
    """Images of one volume, sorted along the normal, with their planes."""

    name: str
    instances: tuple[Instance, ...]
    planes: Planes


def build_volumes(series: Series, bundle: str = "") -> tuple[Volume, ...]:
    """Volumes of a CT, MR or PET series.

    Parameters
    ----------
    series : Series
        Of `read_drop`; instances in any order.
    bundle : str
        Written into the volumes.

    Returns
    -------
    tuple of Volume
        One, or one per acquisition where a series holds several at the same positions.
        CT is int16 HU where that is exact and float32 HU elsewhere.

    Raises
    ------
    VolumeRefusal
        One of `refusals.py`; the series as a whole gives nothing then.
    """
    uid = series.series_instance_uid
    images, flags = _without_localizers(series)
    headers = [image.header for image in images]
    _check_classes(headers, uid)
    frame_of_reference = _one_frame_of_reference(headers, uid)
    planes = read_planes(headers, uid)
    check_one_grid(planes, uid)
    for header in headers:
        check_supported(header, uid)
    _check_matrix(headers, uid)
    parts, removed = _split(images, planes, uid)
    # All affines first: no pixel is decoded for a series that is refused.
    ct = all(header.SOPClassUID == CTImageStorage for header in headers)
    most_tilt_deg = MOST_TILT_DEG if ct else 0.0
    affines = [
        affine_from_planes(
            part.planes, series_uid=uid, what=part.name or "it", most_tilt_deg=most_tilt_deg
        )
        for part in parts
    ]
    return tuple(
        _fill(part, affine, frame_of_reference, uid, bundle, (*flags, *removed))
        for part, affine in zip(parts, affines, strict=True)
    )


def build_matched(
    matches: tuple[Match, ...],
    remarks: tuple[QualityFlag, ...] = (),
    choice: PlanarChoice | None = None,
) -> tuple[tuple[Volume, ...], tuple[Refused, ...]]:
    """Volumes of all matches; a series that is refused does not stop the others.

    Two bundles that match one series share its arrays: it is decoded once.
    `remarks` about the whole drop are added to every volume's quality flags. `choice`
    is which picture of a series of 2D images a person means; None where nobody asked.

    Raises
    ------
    ModelRefusal
        `choice` names an image or a frame that is not there, or not the only one.
    """
    built: dict[tuple[str, str], tuple[Volume, ...]] = {}
    refused: dict[tuple[str, str], Refused] = {}
    volumes: list[Volume] = []

    def build(series: Series) -> tuple[Volume, ...]:
        uid = series.series_instance_uid
        # Broken senders reuse a Series Instance UID in another patient's study.
        key = str(series.instances[0].header.StudyInstanceUID), uid
        if key not in built:
            try:
                built[key] = _build(series, choice)
            except (VolumeRefusal, ModelRefusal) as refusal:
                if choice is not None and isinstance(refusal, ModelRefusal):
                    raise  # a person asked for this one thing
                built[key], refused[key] = (), Refused(uid, refusal.reason)
        return built[key]

    apart: list[Refused] = []
    for match in matches:
        made = build(match.series)
        if match.channels:
            parts = [build(series) for series in match.channels]
            try:
                made = (stack_channels(parts),) if all(parts) else ()
            except VolumeRefusal as refusal:
                made = ()
                apart.append(Refused(match.series.series_instance_uid, refusal.reason))
        volumes += [
            replace(volume, bundle=match.bundle, quality=(*volume.quality, *remarks))
            for volume in made
        ]
    return tuple(volumes), (*refused.values(), *apart)


def _build(series: Series, choice: PlanarChoice | None) -> tuple[Volume, ...]:
    if planar_type_of_series(series) is not None:
        return (build_planar(series, choice or PlanarChoice()),)
    if choice is not None and choice.frame is not None:
        raise FrameOfStack(series.series_instance_uid)
    return build_volumes(series)


def unreadable_files(refused: tuple[Refused, ...]) -> tuple[QualityFlag, ...]:
    """A flag where damaged DICOM files were refused: a missing end slice leaves no gap to see."""
    damaged = [entry.reason for entry in refused if entry.reason.startswith("RL-01")]
    count = sum(not reason.startswith(NO_LOSS) for reason in damaged)
    if not count:
        return ()
    text = f"{count} files that came with it were refused: slices may be missing at its ends."
    return (QualityFlag("files-refused", text),)


def is_localizer(header: Dataset) -> bool:
    """Whether ImageType, value 3, says LOCALIZER (PS3.3 C.8.2.1.1.1)."""
    return "LOCALIZER" in image_type(header)[2:3]


def image_type(header: Dataset) -> list[str]:
    """Values of ImageType, empty where it is absent."""
    value = header.get("ImageType") or []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _without_localizers(series: Series) -> tuple[list[Instance], tuple[QualityFlag, ...]]:
    images = [image for image in series.instances if not is_localizer(image.header)]
    left_out = len(series.instances) - len(images)
    if not images:
        raise OnlyLocalizers(series.series_instance_uid, left_out)
    if not left_out:
        return images, ()
    text = f"{left_out} localizer images of the series were left out."
    return images, (QualityFlag("localizer-left-out", text),)


def _check_classes(headers: list[Dataset], uid: str) -> None:
    for header in headers:
        sop_class = UID(header.SOPClassUID)
        if int(header.get("NumberOfFrames") or 1) > 1 or sop_class.name.startswith("Enhanced "):
            raise MultiframeImage(uid, sop_class.name)
        if sop_class not in _SLICE_CLASSES:
            raise NotAnImageStack(uid, sop_class.name)


def _one_frame_of_reference(headers: list[Dataset], uid: str) -> str:
    found = Counter(str(header.get("FrameOfReferenceUID") or "") for header in headers)
    if "" in found:
        raise MissingGeometry(uid, "FrameOfReferenceUID", found[""], len(headers))
    if len(found) > 1:
        raise MixedFramesOfReference(uid, tuple(found.values()))
    return next(iter(found))


def _check_matrix(headers: list[Dataset], uid: str) -> None:
    sizes = Counter((int(header.Rows), int(header.Columns)) for header in headers)
    if len(sizes) > 1:
        raise MixedMatrixSizes(uid, dict(sizes))


def _part(name: str, images: list[Instance], planes: Planes, chosen: list[int]) -> _Part:
    return _Part(name, tuple(images[n] for n in chosen), planes.of(chosen))


def _split(
    images: list[Instance], planes: Planes, uid: str
) -> tuple[list[_Part], tuple[QualityFlag, ...]]:
    """One place, one image: by acquisition where positions repeat, else without duplicates."""
    places = shared_places(planes)
    if all(len(place) == 1 for place in places):
        return [_part("", images, planes, [place[0] for place in places])], ()
    acquisitions = _by_acquisition(images, places)
    if acquisitions is not None:
        return [
            _part(f"acquisition {number}", images, planes, chosen)
            for number, chosen in acquisitions
        ], ()
    kept = [_one_of_equals(images, place, uid) for place in places]
    chosen = [n for n in kept if n is not None]
    if len(chosen) < len(kept):
        raise RepeatedPositions(uid, len(images) - len(places), len(images))
    left_out = sorted(images[n].sop_instance_uid for n in set(range(len(images))) - set(chosen))
    text = f"Images that repeat another, pixel for pixel, were left out: {', '.join(left_out)}."
    return [_part("", images, planes, chosen)], (QualityFlag("duplicates-removed", text),)


def _acquisition(image: Instance) -> int | None:
    number = image.header.get("AcquisitionNumber")
    return int(number) if isinstance(number, int) else None


def _by_acquisition(
    images: list[Instance], places: list[list[int]]
) -> list[tuple[int, list[int]]] | None:
    """Images by AcquisitionNumber, if that leaves one image a place and stacks of 2 or more."""
    groups: dict[int, list[int]] = defaultdict(list)
    for place in places:
        numbers = [_acquisition(images[n]) for n in place]
        if len(set(numbers)) < len(place):
            return None
        for number, n in zip(numbers, place, strict=True):
            if number is None:
                return None
            groups[number].append(n)
    return sorted(groups.items()) if min(map(len, groups.values())) > 1 else None


def _one_of_equals(images: list[Instance], place: list[int], uid: str) -> int | None:
    """Of the images at one place that with the smallest SOP Instance UID; None if they differ."""
    if len(place) > 1:
        first, *others = (read_stored(images[n], uid) for n in place)
        rescales = {read_rescale(images[n].header, uid) for n in place}
        if len(rescales) > 1 or not all(np.array_equal(first, other) for other in others):
            return None
    return min(place, key=lambda n: images[n].sop_instance_uid)


def _unit_of(headers: tuple[Dataset, ...]) -> tuple[Unit, tuple[QualityFlag, ...]]:
    """What the values of a volume are; all its slices must say the same."""
    found = {_unit(header) for header in headers}
    if len(found) == 1:
        return found.pop()
    return "arbitrary", (
        QualityFlag("mixed-units", "Slices disagree on the unit of their values."),
    )


def _unit(header: Dataset) -> tuple[Unit, tuple[QualityFlag, ...]]:
    """What the values of a slice are, and a remark where that is less than hoped for."""
    sop_class = header.SOPClassUID
    if sop_class == CTImageStorage:
        rescaled = header.get("RescaleSlope") is not None
        if rescaled and (header.get("RescaleType") or "HU") == "HU":
            return "HU", ()
        return "arbitrary", (
            QualityFlag("not-hounsfield", "The CT does not say that its values are HU."),
        )
    if sop_class == PositronEmissionTomographyImageStorage:
        # GML is g/mL: the values are SUV already, whatever else the header explains.
        if header.get("Units") == "GML" and (header.get("SUVType") or "BW") == "BW":
            return "SUVbw", ()
        return "arbitrary", (
            QualityFlag("not-suv", "The PET values are not SUV by body weight (Units is not GML)."),
        )
    return "arbitrary", ()


def _fill(
    part: _Part,
    affine: np.ndarray,
    frame_of_reference: str,
    uid: str,
    bundle: str,
    flags: tuple[QualityFlag, ...],
) -> Volume:
    """Decode slice after slice into one array: never two copies of the volume in memory."""
    headers = tuple(instance.header for instance in part.instances)
    unit, remarks = _unit_of(headers)
    air = outside_value(unit)
    rescales = [read_rescale(header, uid) for header in headers]
    exact = all(rescale.integral for rescale in rescales)
    shape = (len(headers), int(headers[0].Rows), int(headers[0].Columns))
    array = np.empty(shape, np.int16 if exact else np.float32)
    padding: np.ndarray | None = None
    for k, (instance, rescale) in enumerate(zip(part.instances, rescales, strict=True)):
        # 16 bits go into their place as they are and are rescaled there.
        room = array[k] if array.dtype == np.int16 else None
        stored = read_stored(instance, uid, room)
        mask = padding_mask(stored, instance.header)
        if mask is not None:
            padding = np.zeros(shape, bool) if padding is None else padding
            padding[k] = mask
        if array.dtype == np.int16 and not fits_int16(stored, rescale, mask):
            array = array.astype(np.float32)  # rare: 16 bit MR above 32767
        write_values(stored, rescale, mask, air, array[k])
    if any(header.get("LossyImageCompression") == "01" for header in headers):
        remarks += (QualityFlag("lossy", "The source was compressed with loss."),)
    return Volume(
        array=array,
        lps_from_index=affine,
        unit=unit,
        frame_of_reference_uid=frame_of_reference,
        headers=headers,
        series_instance_uid=uid,
        bundle=bundle,
        part=part.name,
        quality=(*flags, *tilt_flags(affine, len(headers)), *remarks),
        padding=padding,
    )
