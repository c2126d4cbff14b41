"""How the values of a volume compare with those of the images a network was trained on.

A network answers to everything, to a CT whose values were shifted on the way as to any
other. Three percentiles of the tissue say whether a volume looks like the training images
at all; they see no artefact, no disease and no other scanner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTILES = (5.0, 50.0, 95.0)
AT_MOST = 1 << 21  # voxels: percentiles of a regular sample of so many are as good as of all
FEWEST = 1000  # voxels: percentiles of fewer say little


@dataclass(frozen=True)
class Band:
    """Lowest and highest value of one percentile over the training images, in their unit."""

    percentile: float
    lowest: float
    highest: float

    @property
    def reach(self) -> tuple[float, float]:
        """What counts as alike: half the width of the band more on either side."""
        more = (self.highest - self.lowest) / 2
        return self.lowest - more, self.highest + more


@dataclass(frozen=True)
class Intensities:
    """The training images' values, as a card has them.

    Attributes
    ----------
    above : float
        Only voxels above this value count (so that the share of air doesn't), in the
        card's unit.
    bands : tuple of Band
        One for each percentile.
    """

    above: float
    bands: tuple[Band, ...]

    @classmethod
    def from_mapping(cls, block: Mapping[str, Any]) -> Intensities:
        """Read the ``intensities`` block of a card, which its schema has checked."""
        bands = tuple(
            Band(float(row["percentile"]), float(row["lowest"]), float(row["highest"]))
            for row in block["bands"]
        )
        return cls(float(block["above"]), bands)

    @classmethod
    def over(cls, volumes: Iterable[np.ndarray], above: float) -> Intensities:
        """Measure them over training images.

        Parameters
        ----------
        volumes : iterable of numpy.ndarray
            Any shape, values in the bundle's unit; one with fewer than `FEWEST` voxels above
            `above` is left out.
        above : float
            As in the class.

        Raises
        ------
        ValueError
            No volume is left.
        """
        rows = [found for volume in volumes if (found := percentiles(volume, above)) is not None]
        if not rows:
            raise ValueError(f"no image has {FEWEST} voxels above {above:g}")
        low, high = np.min(rows, axis=0), np.max(rows, axis=0)
        return cls(
            above,
            tuple(
                Band(percentile, float(lowest), float(highest))
                for percentile, lowest, highest in zip(PERCENTILES, low, high, strict=True)
            ),
        )

    def unlike(self, array: np.ndarray, padding: np.ndarray | None = None) -> Iterator[str]:
        """What of an image lies out of reach, a clause each; nothing where all is alike.

        Parameters
        ----------
        array : numpy.ndarray, shape (z, y, x)
            Values in the card's unit.
        padding : numpy.ndarray or None, shape (z, y, x), bool
            Voxels that are no image.
        """
        found = percentiles(array, self.above, padding, tuple(b.percentile for b in self.bands))
        if found is None:
            yield f"next to nothing is above {self.above:g}"
            return
        for band, value in zip(self.bands, found, strict=True):
            low, high = band.reach
            if not low <= value <= high:
                yield (
                    f"the {band.percentile:g}th percentile is {value:.0f}, in the training "
                    f"images {band.lowest:.0f} to {band.highest:.0f}"
                )


def percentiles(
    array: np.ndarray,
    above: float,
    padding: np.ndarray | None = None,
    which: tuple[float, ...] = PERCENTILES,
) -> np.ndarray | None:
    """Percentiles of the voxels above a value, shape (len(which),); None where there are few.

    Of a large volume, every n-th row and column of every slice is asked, the same on every
    run.
    """
    step = max(1, int(np.ceil((array.size / AT_MOST) ** 0.5)))
    thin = (..., slice(None, None, step), slice(None, None, step)) if array.ndim > 1 else ...
    values, counted = array[thin], array[thin] > above
    if padding is not None:
        counted &= ~padding[thin]
    chosen = values[counted]
    if chosen.size < min(FEWEST, array.size):
        return None
    return np.asarray(np.percentile(chosen, which), np.float64)
