"""Longest lines within a structure: in one slice (RECIST 1.1), and in three dimensions.

A voxel reaches half a step from its centre along each axis of the grid, as the surface
through the middles between voxels in and out does: lines end there, not at corners
(too long, most of all obliquely) and not at centres (too short by a voxel).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist
from skimage.measure import find_contours

from operators.findings.boxes import Box
from operators.measured import Axis, Point

_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)
_ROWS_AT_ONCE = 128  # of a matrix of distances
_FEW = 2048  # points whose distances cost less than their convex hull
_DIRECTIONS = 36  # in which the width of a slice is looked at, 5 degrees apart
_CHORDS = 1024  # lines across a structure that are tried for the short axis


@dataclass(frozen=True)
class Line:
    """A measured length.

    Attributes
    ----------
    length_mm : float
        Between its ends.
    uncertainty_mm : float
        Width of a voxel as seen along the line: each end may lie half of that farther
        in or out.
    axis : Axis
        Where it lies.
    """

    length_mm: float
    uncertainty_mm: float
    axis: Axis


def longest_line(piece: np.ndarray, box: Box, lps_from_index: np.ndarray) -> Line:
    """The longest straight line between two points of a mask's surface.

    Parameters
    ----------
    piece : numpy.ndarray, shape (z, y, x), bool
        With at least one voxel.
    box : Box
        Where `piece` lies in the volume.
    lps_from_index : numpy.ndarray, shape (4, 4)
        (i, j, k, 1) → LPS mm, of the volume.
    """
    steps = lps_from_index[:3, :3]
    corners = (_corners(piece) + _first(box)) @ steps.T
    if len(corners) > _FEW:
        corners = _hull(corners)
    one, other = _farthest_reached(corners, steps) + lps_from_index[:3, 3]
    return _line(one, other, lps_from_index, None)


def in_plane_axes(piece: np.ndarray, box: Box, lps_from_index: np.ndarray) -> tuple[Line, Line]:
    """Long and short axis on the slice in which the mask is longest.

    Parameters
    ----------
    piece, box, lps_from_index
        As for `longest_line`.

    Returns
    -------
    tuple of Line
        The longest line in any slice, of one 8-connected part of it; and the longest one
        perpendicular to it within the outer border of the same part.

    References
    ----------
    Eisenhauer EA et al. New response evaluation criteria in solid tumours: revised RECIST
    guideline (version 1.1). Eur J Cancer 2009;45:228-247: longest diameter in the plane of
    measurement; short axis of lymph nodes.
    """
    # An orthonormal frame of the plane: rows of `frame` times (i, j) are mm.
    basis, frame = np.linalg.qr(lps_from_index[:3, :2])
    best: tuple[float, np.ndarray, np.ndarray, int] | None = None
    for bound, k, part, corner in _parts(piece, frame):
        if best is not None and bound <= best[0]:
            break
        pair = _farthest(_reached(_corners(part) @ frame.T, frame))
        length = float(np.linalg.norm(pair[0] - pair[1]))
        if best is None or length > best[0]:
            shift = corner @ frame.T
            best = length, pair + shift, _chord(part, frame, pair) + shift, k
    assert best is not None
    _, along, across, k = best

    there = box[0].start + k
    origin = lps_from_index[:3] @ (box[2].start, box[1].start, there, 1)
    long, short = (
        _line(one, other, lps_from_index, there)
        for one, other in (pair @ basis.T + origin for pair in (along, across))
    )
    return long, short


def extents_mm(mask: np.ndarray, lps_from_index: np.ndarray) -> np.ndarray:
    """Size of a mask along the patient's axes.

    Parameters
    ----------
    mask : numpy.ndarray, shape (z, y, x), bool
        With at least one voxel.
    lps_from_index : numpy.ndarray, shape (4, 4)
        (i, j, k, 1) → LPS mm.

    Returns
    -------
    numpy.ndarray, shape (2, 3), float64
        Left to right, front to back, head to feet; and the uncertainty of each.
    """
    steps = lps_from_index[:3, :3]
    places = row_ends(mask)[:, ::-1] @ steps.T
    size = np.ptp(places, axis=0) + np.abs(steps).max(axis=1)
    return np.array([size, np.abs(steps).sum(axis=1)])


def row_ends(mask: np.ndarray) -> np.ndarray:
    """First and last voxel of every row that has one.

    Parameters
    ----------
    mask : numpy.ndarray, shape (z, y, x) or (y, x), bool

    Returns
    -------
    numpy.ndarray, shape (n, 3) or (n, 2), int64
        Indices in the order of the array's axes.
    """
    rows = mask.reshape(-1, mask.shape[-1])
    held = np.flatnonzero(rows.any(axis=1))
    first = rows[held].argmax(axis=1)
    last = mask.shape[-1] - 1 - rows[held, ::-1].argmax(axis=1)
    where = np.unravel_index(np.concatenate([held, held]), mask.shape[:-1])
    return np.column_stack([*where, np.concatenate([first, last])])


def _corners(mask: np.ndarray) -> np.ndarray:
    """Voxels that may be corners of the convex hull: not the middle between two others.

    Returns
    -------
    numpy.ndarray, shape (n, 3) or (n, 2), float64
        (i, j, k) or (i, j).
    """
    padded = np.pad(mask, 1)
    flat, strides = padded.ravel(), np.array(padded.strides)
    left = (row_ends(mask) + 1) @ strides
    for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
        if step > (0,) * mask.ndim:
            offset = int(strides @ step)
            left = left[~(flat[left - offset] & flat[left + offset])]
    index = np.column_stack(np.unravel_index(np.unique(left), padded.shape)) - 1
    return index[:, ::-1].astype(float)


def _first(box: Box) -> np.ndarray:
    """Index (i, j, k) of a box's first voxel."""
    return np.array([box[2].start, box[1].start, box[0].start], float)


def _farthest_reached(centres: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The two points farthest from each other that voxels reach, shape (2, 3).

    Parameters
    ----------
    centres : numpy.ndarray, shape (n, 3)
        Of voxels, mm.
    steps : numpy.ndarray, shape (3, 3)
        Columns: the steps along the axes of the grid, mm.
    """
    reach = _reached(np.zeros((1, 3)), steps)
    both = np.array(list(itertools.product(reach, reach)))
    more = both[:, 1] - both[:, 0]
    most = np.linalg.norm(more, axis=1).max()

    def longest(one: np.ndarray, other: np.ndarray) -> tuple[float, np.ndarray]:
        lengths = np.linalg.norm((centres[other] - centres[one])[:, None] + more, axis=2)
        pair, n = np.unravel_index(np.argmax(lengths), lengths.shape)
        ends = np.stack([centres[one[pair]], centres[other[pair]]]) + both[n]
        return float(lengths[pair, n]), ends

    along = centres @ steps
    best = longest(along.argmin(axis=0), along.argmax(axis=0))
    for first in range(0, len(centres), _ROWS_AT_ONCE):
        apart = cdist(centres[first : first + _ROWS_AT_ONCE], centres)
        one, other = np.unravel_index([np.argmax(apart)], apart.shape)
        best = max(best, longest(one + first, other), key=lambda found: found[0])
        # And all that would be longer if their ends reached as far as any can.
        one, other = np.nonzero(apart >= best[0] - most)
        if len(one):
            best = max(best, longest(one + first, other), key=lambda found: found[0])
    return best[1]


def _reached(centres: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How far voxels reach along each axis of the grid: half a step (columns of `steps`)."""
    reach = 0.5 * np.concatenate([steps.T, -steps.T])
    return np.asarray((centres[:, None] + reach).reshape(-1, steps.shape[0]))


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull; all points where they lie in one plane or line."""
    if len(points) <= points.shape[1] + 1:
        return points
    try:
        return np.asarray(points[ConvexHull(points).vertices])
    except QhullError:
        return np.unique(points, axis=0)


def _farthest(points: np.ndarray) -> np.ndarray:
    """The two points that are farthest from each other, shape (2, dimensions)."""
    # No point nearer to the middle than this can end a line longer than one that is known.
    far = np.linalg.norm(points - points.mean(axis=0), axis=1)
    start = points[np.argmax(far)]
    known = np.linalg.norm(points - start, axis=1).max()
    points = points[far >= known - far.max() - 1e-9]
    best, pair = -1.0, (0, 0)
    for first in range(0, len(points), _ROWS_AT_ONCE):
        distances = cdist(points[first : first + _ROWS_AT_ONCE], points)
        a, b = np.unravel_index(np.argmax(distances), distances.shape)
        if distances[a, b] > best:
            best, pair = float(distances[a, b]), (first + int(a), int(b))
    return np.asarray(points[list(pair)])


def _parts(
    piece: np.ndarray, frame: np.ndarray
) -> Iterator[tuple[float, int, np.ndarray, np.ndarray]]:
    """Connected parts of every slice, those that may be longest first.

    Yields
    ------
    tuple
        An upper bound of its length, mm; k; the part in its box; (i, j) of that box.
    """
    ends = row_ends(piece)
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    held, starts = np.unique(ends[:, 0], return_index=True)
    bounds = _longest_possible_mm(ends[:, :0:-1], starts, frame)
    waiting: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    for n in np.argsort(-bounds):
        # Parts wait until no slice is left that may hold a longer one.
        waiting.sort(key=lambda part: part[0])
        while waiting and waiting[-1][0] >= bounds[n]:
            yield waiting.pop()
        k = int(held[n])
        pieces, _ = ndimage.label(piece[k], _EIGHT_NEIGHBOURS)
        for number, (down, across) in enumerate(ndimage.find_objects(pieces), start=1):
            part = pieces[down, across] == number
            corner = np.array([across.start, down.start], float)
            (bound,) = _longest_possible_mm(row_ends(part)[:, ::-1], np.zeros(1, int), frame)
            waiting.append((float(bound), k, part, corner))
    yield from sorted(waiting, key=lambda part: -part[0])


def _longest_possible_mm(ends_ij: np.ndarray, starts: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Upper bound of the longest line in each of several sets of pixels.

    A set is as long as it is wide in the direction of its longest line, and one of the
    directions that are tried is never farther from that than half their step.

    Parameters
    ----------
    ends_ij : numpy.ndarray, shape (n, 2)
        Row ends of all sets, one set after the other.
    starts : numpy.ndarray, shape (sets,)
        Where each set begins.
    frame : numpy.ndarray, shape (2, 2)
        (i, j) → mm.
    """
    longest = np.zeros(len(starts))
    places = ends_ij @ frame.T
    for angle in np.arange(_DIRECTIONS) * (np.pi / _DIRECTIONS):
        along = np.array([np.cos(angle), np.sin(angle)])
        seen = places @ along
        width = np.maximum.reduceat(seen, starts) - np.minimum.reduceat(seen, starts)
        np.maximum(longest, width + np.abs(along @ frame).max(), out=longest)
    return longest / np.cos(np.pi / 2 / _DIRECTIONS)


def _chord(part: np.ndarray, frame: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Longest line perpendicular to `along` within the outer border of a part.

    Parameters
    ----------
    part : numpy.ndarray, shape (rows, columns), bool
        8-connected.
    frame : numpy.ndarray, shape (2, 2)
        (i, j) → mm.
    along : numpy.ndarray, shape (2, 2)
        Both ends of the long axis, mm.

    Returns
    -------
    numpy.ndarray, shape (2, 2), float64
        Both ends, mm.
    """
    contours = find_contours(np.pad(part, 1).astype(float), 0.5, fully_connected="high")
    outer = max(contours, key=lambda contour: float(np.ptp(contour, axis=0).sum()))
    border = (outer[:, ::-1] - 1) @ frame.T
    t_axis = (along[1] - along[0]) / np.linalg.norm(along[1] - along[0])
    s_axis = np.array([-t_axis[1], t_axis[0]])
    t, s = border @ t_axis, border @ s_axis
    # Between the corners, so that no line passes through one.
    at = np.unique(t)
    at = (at[1:] + at[:-1]) / 2
    at = at[np.linspace(0, len(at) - 1, min(len(at), _CHORDS)).astype(int)]
    crossed, edge = np.nonzero((t[:-1] <= at[:, None]) != (t[1:] <= at[:, None]))
    share = (at[crossed] - t[edge]) / (t[edge + 1] - t[edge])
    where = s[edge] + share * (s[edge + 1] - s[edge])
    where = where[np.lexsort((where, crossed))]
    # The border is closed: every line crosses it an even number of times.
    longest = 2 * int(np.argmax(where[1::2] - where[::2]))
    t_there = at[crossed[longest]]
    return np.array([t_there * t_axis + where[n] * s_axis for n in (longest, longest + 1)])


def _line(one: np.ndarray, other: np.ndarray, lps_from_index: np.ndarray, k: int | None) -> Line:
    length = float(np.linalg.norm(other - one))
    seen = np.abs((other - one) / length @ lps_from_index[:3, :3]).sum()
    return Line(length, float(seen), Axis((_point(one), _point(other)), k))


def _point(place: np.ndarray) -> Point:
    x, y, z = (float(value) for value in place)
    return x, y, z
