"""What a result says of its prompt: parameters by name, part of its identity.

Whatever decides the marks is in here, so that another prompt gives other UIDs. A text
that would be too long for an object is replaced by its hash; what it hashes is said.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from operators.models.medsam.picture import Point
from operators.models.medsam.place import Placed
from operators.models.medsam.region import Region
from operators.models.medsam.request import DECIMALS, format_box

TEXT_LIMIT = 200  # all parameters together must fit an ST of 1,024 characters


def prompt_parameters(placed: Placed, region: Region) -> tuple[tuple[str, str], ...]:
    """The prompt by name, for Algorithm Parameters.

    Parameters
    ----------
    placed : Placed
        Where the region lies.
    region : Region
        What was asked for.

    Returns
    -------
    tuple of (str, str)
        Where the marks come from; boxes and points in the order of the slices; the SOP
        Instance UIDs of these; a hash of the masks, where masks are refined.
    """
    prompts = list(placed.slices.values())
    named: dict[str, str] = dict(region.origin)
    boxes = [format_box(prompt.box) for prompt in prompts if prompt.box is not None]
    points = [format_point(point) for prompt in prompts for point in prompt.points]
    if boxes:
        named["prompt_box"] = _short(boxes)
    if points:
        named["prompt_point"] = _short(points)
    named["prompt_slice"] = _short([placed.volume.source_sop_uids[k] for k in placed.slices])
    masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
    if masks:
        digest = hashlib.sha256(b"".join(np.packbits(mask).tobytes() for mask in masks))
        named["prompt_mask_sha256"] = digest.hexdigest()
    return tuple(named.items())


def format_point(point: Point) -> str:
    """The point as `parse_point` reads it."""
    x, y = (f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".") for value in point[:2])
    return f"{x},{y},{'+' if point[2] else '-'}"


def _short(texts: list[str]) -> str:
    """The texts with semicolons between, or the hash of their JSON where that is long."""
    joined = ";".join(texts)
    if len(joined) <= TEXT_LIMIT:
        return joined
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return f"{len(texts)} values, sha256 {digest}"
