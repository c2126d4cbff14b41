"""Why a series can't be made into volumes: RL-03xx.

VolumeRefusal
├── NotAnImageStack       RL-0301
├── MultiframeImage       RL-0302
├── OnlyLocalizers        RL-0303
├── TooFewSlices          RL-0304
├── MissingGeometry       RL-0305
├── InvalidGeometry       RL-0306
├── MixedFramesOfReference RL-0307
├── MixedOrientations     RL-0308
├── MixedMatrixSizes      RL-0309
├── MixedPixelSpacings    RL-0310
├── RepeatedPositions     RL-0311
├── GantryTilt            RL-0312
├── MisplacedSlice        RL-0313
├── UnevenSpacing         RL-0314
├── UnsupportedPixels     RL-0315
└── UndecodablePixels     RL-0316
"""

from __future__ import annotations

from operators.errors import VolumeRefusal


class NotAnImageStack(VolumeRefusal):
    """An object without slices of a grid: report, contour, projection, screenshot."""

    code = "RL-0301"

    def __init__(self, series_uid: str, sop_class: str) -> None:
        super().__init__(
            f"series {series_uid}: {sop_class} is not a stack of slices "
            "(CT, MR or PET Image Storage is). Choose another series of the study."
        )


class MultiframeImage(VolumeRefusal):
    """Enhanced or multi-frame: not read yet."""

    code = "RL-0302"

    def __init__(self, series_uid: str, sop_class: str) -> None:
        super().__init__(
            f"series {series_uid}: {sop_class} with many frames in one file is not supported yet. "
            "Ask the PACS to send the classic form, one file per slice."
        )


class OnlyLocalizers(VolumeRefusal):
    """Nothing but localizers."""

    code = "RL-0303"

    def __init__(self, series_uid: str, count: int) -> None:
        super().__init__(
            f"series {series_uid}: all {count} images are localizers. "
            "Choose the series that was planned on them."
        )


class TooFewSlices(VolumeRefusal):
    """One slice has no spacing."""

    code = "RL-0304"

    def __init__(self, series_uid: str, what: str, count: int) -> None:
        super().__init__(
            f"series {series_uid}: {what} has {count} slice, a volume needs 2: spacing comes "
            "from positions, never from SliceThickness. Send the whole series."
        )


class MissingGeometry(VolumeRefusal):
    """An attribute without which a slice has no place or size."""

    code = "RL-0305"

    def __init__(self, series_uid: str, keyword: str, missing: int, total: int) -> None:
        self.keyword = keyword
        super().__init__(
            f"series {series_uid}: {missing} of {total} images have no usable {keyword}; "
            "it is never guessed from InstanceNumber or SliceLocation. "
            "Send the series again from its source."
        )


class InvalidGeometry(VolumeRefusal):
    """A geometry attribute that describes no rectangular grid."""

    code = "RL-0306"

    def __init__(self, series_uid: str, sop_uid: str, fault: str) -> None:
        super().__init__(
            f"series {series_uid}, instance {sop_uid}: {fault}. "
            "Send the series again from its source."
        )


class MixedFramesOfReference(VolumeRefusal):
    """Positions that must not be compared."""

    code = "RL-0307"

    def __init__(self, series_uid: str, counts: tuple[int, ...]) -> None:
        super().__init__(
            f"series {series_uid}: its images are in {len(counts)} frames of reference "
            f"({_joined(counts)} images), whose positions can't be compared. "
            "Split the series by FrameOfReferenceUID."
        )


class MixedOrientations(VolumeRefusal):
    """More than one slice direction."""

    code = "RL-0308"

    def __init__(self, series_uid: str, counts: tuple[int, ...]) -> None:
        super().__init__(
            f"series {series_uid}: its images have {len(counts)} orientations "
            f"({_joined(counts)} images). Split the series by ImageOrientationPatient."
        )


class MixedMatrixSizes(VolumeRefusal):
    """More than one number of rows and columns."""

    code = "RL-0309"

    def __init__(self, series_uid: str, sizes: dict[tuple[int, int], int]) -> None:
        found = ", ".join(f"{n} of {rows} x {columns}" for (rows, columns), n in sizes.items())
        super().__init__(
            f"series {series_uid}: its images differ in rows x columns: {found}. "
            "Send the odd ones in a series of their own."
        )


class MixedPixelSpacings(VolumeRefusal):
    """Pixels of different size."""

    code = "RL-0310"

    def __init__(self, series_uid: str, smallest: float, largest: float, limit: float) -> None:
        super().__init__(
            f"series {series_uid}: PixelSpacing goes from {smallest:.4f} to {largest:.4f} mm "
            f"(limit {limit:.4f} mm apart). Split the series by PixelSpacing."
        )


class RepeatedPositions(VolumeRefusal):
    """Several images at one place, and nothing that tells them apart for sure."""

    code = "RL-0311"

    def __init__(self, series_uid: str, repeated: int, total: int) -> None:
        super().__init__(
            f"series {series_uid}: {repeated} of {total} images lie where another one lies, with "
            "other pixels, and AcquisitionNumber does not tell them apart. "
            "Split the series by phase, echo or time."
        )


class GantryTilt(VolumeRefusal):
    """Slices shifted against each other by more than a tilted gantry can account for."""

    code = "RL-0312"

    def __init__(self, series_uid: str, tilt_deg: float, shear_mm: float, limit_deg: float) -> None:
        self.tilt_deg, self.shear_mm = tilt_deg, shear_mm
        why = "no gantry tilts more" if limit_deg else "only the gantry of a CT tilts"
        super().__init__(
            f"series {series_uid}: its slices lean by {tilt_deg:.1f} degrees: each is shifted by "
            f"{shear_mm:.3f} mm in its plane against the one before (limit {limit_deg:.0f} "
            f"degrees: {why}). Ask the PACS for a reformatted series."
        )


class MisplacedSlice(VolumeRefusal):
    """One slice lies beside the line of the others."""

    code = "RL-0313"

    def __init__(self, series_uid: str, slice_number: int, off_mm: float, limit: float) -> None:
        self.off_mm = off_mm
        super().__init__(
            f"series {series_uid}: slice {slice_number} lies {off_mm:.2f} mm beside the line of "
            f"the others (limit {limit:.2f} mm). Send the series again from its source."
        )


class UnevenSpacing(VolumeRefusal):
    """Slices of one series are not equally far apart."""

    code = "RL-0314"

    def __init__(
        self, series_uid: str, first: int, at_mm: float, found: float, usual: float, limit: float
    ) -> None:
        self.first, self.found_mm, self.usual_mm = first, found, usual
        super().__init__(
            f"series {series_uid}: {found:.2f} mm between slices {first} and {first + 1} "
            f"(at {at_mm:.1f} mm along the slice normal), {usual:.2f} mm elsewhere "
            f"(limit {limit:.2f} mm off). A slice is missing or misplaced: send the series again."
        )


class UnsupportedPixels(VolumeRefusal):
    """Pixels that are not one value per voxel, or whose values need a table."""

    code = "RL-0315"

    def __init__(self, series_uid: str, sop_uid: str, fault: str) -> None:
        super().__init__(
            f"series {series_uid}, instance {sop_uid}: {fault}. Choose the original series."
        )


class UndecodablePixels(VolumeRefusal):
    """The decoder says no, or gives another image than the header promises."""

    code = "RL-0316"

    def __init__(self, series_uid: str, sop_uid: str, fault: str) -> None:
        super().__init__(
            f"series {series_uid}, instance {sop_uid}: pixel data can't be decoded: {fault}. "
            "Ask the PACS to send it uncompressed."
        )


def _joined(counts: tuple[int, ...]) -> str:
    return " and ".join(map(str, counts))
