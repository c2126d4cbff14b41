"""Where the patient's left, head and back are in a plane of pixels: letters, never assumed.

A plane is turned by whole quarter turns and mirrors until it lies as a reader expects it;
the letters at its edges are then computed from the directions that its rows and columns
really have. No pixel is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from operators.job import Volume

# Of the unit vector: a direction that turns by less than 15 degrees keeps its one letter.
_SECOND_LETTER = float(np.sin(np.deg2rad(15.0)))
_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))  # towards +x, -x; +y, -y; +z, -z in LPS
_OPPOSITE = str.maketrans("LRPAHF", "RLAPFH")
# What lies to the right and to the bottom of a picture, by the axis that the normal is nearest to.
_CONVENTION = {
    0: ("sagittal", (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    1: ("coronal", (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    2: ("axial", (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
}


def letters(direction_lps: np.ndarray) -> str:
    """The patient's directions that a vector points to, the strongest first.

    >>> letters(np.array([1.0, 0.0, 0.0])), letters(np.array([-0.8, 0.6, 0.0]))
    ('L', 'RP')

    Parameters
    ----------
    direction_lps : numpy.ndarray, shape (3,)
        Not zero, LPS.

    Returns
    -------
    str
        One to three of L R P A H F; a component below sin(15 degrees) has no letter.

    References
    ----------
    DICOM PS3.3 C.7.6.1.1.1, Patient Orientation.
    """
    unit = np.asarray(direction_lps, float) / np.linalg.norm(direction_lps)
    strongest_first = np.argsort(-np.abs(unit), kind="stable")
    return "".join(
        _LETTERS[axis][0 if unit[axis] > 0 else 1]
        for axis in strongest_first
        if abs(unit[axis]) >= _SECOND_LETTER
    )


def opposite(direction: str) -> str:
    """The other way.

    >>> opposite("RP")
    'LA'
    """
    return direction.translate(_OPPOSITE)


@dataclass(frozen=True)
class View:
    """How a plane (rows, columns) is laid out as a picture, and what its edges are.

    Attributes
    ----------
    name : str
        "axial", "coronal", "sagittal"; "" for an image without a place in the patient.
    transposed : bool
        Rows and columns change places, before anything is mirrored.
    flip_rows, flip_columns : bool
        Mirrored top to bottom, left to right.
    right, bottom : str
        What those edges of the picture point to; "" where it is not known.
    row_mm, column_mm : float or None
        Between rows and between columns of the picture; None where it is not known.
    """

    name: str
    transposed: bool
    flip_rows: bool
    flip_columns: bool
    right: str
    bottom: str
    row_mm: float | None
    column_mm: float | None

    def turn(self, plane: np.ndarray) -> np.ndarray:
        """A plane of pixels, shape (rows, columns), as it is shown."""
        turned = plane.T if self.transposed else plane
        turned = turned[::-1] if self.flip_rows else turned
        return turned[:, ::-1] if self.flip_columns else turned

    @property
    def edges(self) -> tuple[str, str, str, str]:
        """Letters of the left, right, top and bottom edge; "" where they are not known."""
        return opposite(self.right), self.right, opposite(self.bottom), self.bottom


def view_of(volume: Volume) -> View:
    """How the slices of a volume are shown.

    Parameters
    ----------
    volume : Volume
        Its slices may lie in any direction and in any handedness. Of a 2D image only what
        its header says of its rows and columns (PatientOrientation) is known, and it
        is shown as it is stored.

    Returns
    -------
    View
        Right is the patient's left in axial and coronal planes, the back in sagittal ones;
        the top is the front in axial planes, the head in others.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, Image Position and Image Orientation; C.7.6.1.1.1.
    """
    if volume.plane is not None:
        right, bottom = _stored_directions(volume.headers[0])
        scale = volume.plane.scales[0] if len(volume.plane.scales) == 1 else None
        return View(
            name="",
            transposed=False,
            flip_rows=False,
            flip_columns=False,
            right=right,
            bottom=bottom,
            row_mm=scale.row_mm if scale else None,
            column_mm=scale.column_mm if scale else None,
        )
    return view_of_plane(volume.lps_from_index[:3, 0], volume.lps_from_index[:3, 1])


def view_of_plane(along_columns_mm: np.ndarray, along_rows_mm: np.ndarray) -> View:
    """How one plane is shown.

    Parameters
    ----------
    along_columns_mm : numpy.ndarray, shape (3,)
        From one column to the next, LPS mm: the step of index i.
    along_rows_mm : numpy.ndarray, shape (3,)
        From one row to the next, LPS mm: the step of index j.
    """
    # The plane's own normal: a tilted gantry's slices do not follow each other along it.
    normal = np.cross(along_columns_mm, along_rows_mm)
    name, to_right, to_bottom = _CONVENTION[int(np.argmax(np.abs(normal)))]
    i, j = (step / np.linalg.norm(step) for step in (along_columns_mm, along_rows_mm))
    straight = abs(i @ to_right) + abs(j @ to_bottom)
    crossed = abs(j @ to_right) + abs(i @ to_bottom)
    across, down = (j, i) if crossed > straight else (i, j)
    spacing = (along_rows_mm, along_columns_mm)
    across_mm, down_mm = spacing if crossed > straight else spacing[::-1]
    flip_columns, flip_rows = bool(across @ to_right < 0), bool(down @ to_bottom < 0)
    return View(
        name=name,
        transposed=bool(crossed > straight),
        flip_rows=flip_rows,
        flip_columns=flip_columns,
        right=letters(-across if flip_columns else across),
        bottom=letters(-down if flip_rows else down),
        row_mm=float(np.linalg.norm(down_mm)),
        column_mm=float(np.linalg.norm(across_mm)),
    )


def _stored_directions(header: Dataset) -> tuple[str, str]:
    """What rows and columns of a 2D image run to, of a human; ("", "") where it doesn't say."""
    value = header.get("PatientOrientation")
    said = [] if value is None or isinstance(value, str) else [str(part) for part in value]
    quadruped = str(header.get("AnatomicalOrientationType") or "BIPED") != "BIPED"
    if quadruped or len(said) != 2 or not set("".join(said)) <= set("LRPAHF"):
        return "", ""
    return said[0], said[1]
