"""The same measurements by SimpleITK, which shares no code with ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its own documentation's name)


@dataclass(frozen=True)
class Measured:
    """One label: ml, mm2, mm and the unit of the values; lines run between voxel centres."""

    volume_ml: float
    surface_mm2: float
    components: int
    longest_3d_mm: float
    longest_in_slice_mm: float
    mean: float
    standard_deviation: float
    minimum: float
    maximum: float
    box_ijk: tuple[int, ...]


def by_itk(mask: np.ndarray, values: np.ndarray, lps_from_index: np.ndarray) -> Measured:
    """Measure a mask, shape (z, y, x); lines in its largest 26-connected piece."""
    spacing = np.linalg.norm(lps_from_index[:3, :3], axis=0)

    def image(array: np.ndarray) -> sitk.Image:
        made = sitk.GetImageFromArray(array)
        made.SetSpacing(spacing.tolist())
        made.SetDirection((lps_from_index[:3, :3] / spacing).ravel().tolist())
        made.SetOrigin(lps_from_index[:3, 3].tolist())
        return made

    whole = image(mask.astype(np.uint8))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(whole)
    # ITK counts no crossings at the edge of an image: there must be something around.
    border = sitk.LabelShapeStatisticsImageFilter()
    border.ComputePerimeterOn()
    border.Execute(image(np.pad(mask, 1).astype(np.uint8)))
    level = sitk.LabelStatisticsImageFilter()
    level.Execute(image(values.astype(np.float64)), whole)
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(whole, True))
    largest = pieces == 1
    line = sitk.LabelShapeStatisticsImageFilter()
    line.ComputeFeretDiameterOn()
    line.Execute(largest)
    n = shape.GetNumberOfPixels(1)
    return Measured(
        volume_ml=shape.GetPhysicalSize(1) / 1000,
        surface_mm2=border.GetPerimeter(1),
        components=int(sitk.GetArrayViewFromImage(pieces).max()),
        longest_3d_mm=line.GetFeretDiameter(1),
        longest_in_slice_mm=_in_slice(sitk.GetArrayFromImage(largest), spacing),
        mean=level.GetMean(1),
        # ITK divides by n - 1.
        standard_deviation=level.GetSigma(1) * ((n - 1) / n) ** 0.5 if n > 1 else 0.0,
        minimum=level.GetMinimum(1),
        maximum=level.GetMaximum(1),
        box_ijk=shape.GetBoundingBox(1)[3:],
    )


def _in_slice(piece: np.ndarray, spacing_ijk: np.ndarray) -> float:
    longest = 0.0
    for plane in piece:
        if plane.any():
            image = sitk.GetImageFromArray(plane)
            image.SetSpacing(spacing_ijk[:2].tolist())
            parts = sitk.ConnectedComponent(image, True)
            line = sitk.LabelShapeStatisticsImageFilter()
            line.ComputeFeretDiameterOn()
            line.Execute(parts)
            longest = max(longest, *(line.GetFeretDiameter(n) for n in line.GetLabels()))
    return longest
