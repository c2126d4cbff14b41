"""The steps of a bundle behind its decision, on no more of the volume than they look at."""

from __future__ import annotations

from typing import Any


def finish(compose: Any, item: dict[str, Any]) -> dict[str, Any]:
    """Run the steps; where all only choose among connected pieces, on the box of all pieces.

    Organs fill a few per cent of a trunk CT, and labelling pieces looks at every voxel.

    Parameters
    ----------
    compose : monai.transforms.Compose
        Dictionary transforms.
    item : dict
        ``pred``: monai.data.MetaTensor, shape (C, X, Y, Z) or (C, X, Y).
    """
    import torch
    from monai.transforms import KeepLargestConnectedComponentd

    steps = compose.transforms
    if not steps or not all(
        isinstance(step, KeepLargestConnectedComponentd) and step.keys == ("pred",)
        for step in steps
    ):
        done: dict[str, Any] = compose(item)
        return done
    pred = item["pred"]
    there = pred.as_tensor().amax(dim=0) != 0
    box = [slice(None)]
    for axis in range(there.ndim):
        held = torch.nonzero(there.movedim(axis, 0).flatten(1).any(dim=1)).flatten()
        if not len(held):
            return item
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    kept = compose({**item, "pred": pred[tuple(box)]})["pred"]
    whole = torch.zeros_like(pred)
    whole[tuple(box)] = kept
    return {**item, "pred": whole}
