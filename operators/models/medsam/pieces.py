"""A structure that lies apart in a slice, as regions that are each in one piece.

A network of SAM's kind answers a box with one piece: both parotids in one box come back
bridged or as one of them. So each piece of a mask is followed by itself, from slice to
slice by what overlaps, and the answers are united by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from operators.models.medsam.mark_file import TooManyMarks
from operators.models.medsam.picture import SlicePrompt
from operators.models.medsam.propagate import End, Propagated, bounding_box

PIECES_LIMIT = 1_000  # of all slices together; each costs a look of the network
# The box of a piece, widened: the mask may be too small as well.
MASK_WIDEN_PX = 2.0


def of_mask(mask: np.ndarray) -> SlicePrompt:
    """A mask to refine, with its box."""
    return SlicePrompt(bounding_box(mask, MASK_WIDEN_PX), mask=mask)


def pieces_of(slices: Mapping[int, SlicePrompt]) -> tuple[dict[int, SlicePrompt], ...]:
    """Regions with one piece in every slice that together are what is marked.

    A piece goes on with the one of the marked slice before that it overlaps most, unless
    another does so more; else it begins a region. Boxes and points are in one piece.

    Parameters
    ----------
    slices : mapping of int to SlicePrompt
        By k.

    Returns
    -------
    tuple of dict
        By k, rising; one region, as it was given, where no slice holds several pieces.

    Raises
    ------
    TooManyMarks
        More than `PIECES_LIMIT` pieces.
    """
    masks = {k: _masks(prompt) for k, prompt in slices.items()}
    count = sum(map(len, masks.values()))
    if count == len(slices):
        return (dict(sorted(slices.items())),)
    if count > PIECES_LIMIT:
        raise TooManyMarks("separate pieces", count, PIECES_LIMIT)
    regions: list[dict[int, SlicePrompt]] = []
    last: list[tuple[dict[int, SlicePrompt], np.ndarray]] = []
    for k in sorted(slices):
        here: list[tuple[dict[int, SlicePrompt], np.ndarray]] = []
        before = _linked([mask for _, mask in last], masks[k])
        for mask, link in zip(masks[k], before, strict=True):
            if link is None:
                regions.append({})
            region = regions[-1] if link is None else last[link][0]
            region[k] = slices[k] if len(masks[k]) == 1 else of_mask(mask)
            here.append((region, mask))
        last = here
    return tuple(regions)


def _masks(prompt: SlicePrompt) -> list[np.ndarray]:
    """Connected pieces of what is marked on a slice; an empty one for what has no mask."""
    if prompt.mask is None:
        return [np.zeros((0, 0), bool)]
    labels, count = ndimage.label(prompt.mask)
    return [labels == n for n in range(1, count + 1)]


def _linked(before: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[int | None]:
    """For each mask the one before that it goes on with; each of those goes on once."""
    if len(before) == len(masks) == 1:
        return [0]
    shared = {
        (b, m): int((old & mask).sum()) if old.shape == mask.shape else 0
        for b, old in enumerate(before)
        for m, mask in enumerate(masks)
    }
    links: list[int | None] = [None] * len(masks)
    for (b, m), pixels in sorted(shared.items(), key=lambda entry: -entry[1]):
        if pixels and links[m] is None and b not in links:
            links[m] = b
    return links


def united(parts: Sequence[Propagated]) -> Propagated:
    """What was found of each piece, as one structure; at least one part.

    It reaches as far as the farthest piece does, and ends there as that one.
    """
    found = [part for part in parts if part.mask.any()]
    if len(found) < 2:
        return (found or list(parts))[0]
    first = min(found, key=lambda part: part.first)
    last = max(found, key=lambda part: part.last)
    ends: tuple[End, End] = (first.ends[0], last.ends[1])
    return replace(
        first,
        mask=np.logical_or.reduce([part.mask for part in found]),
        last=last.last,
        ends=ends,
    )
