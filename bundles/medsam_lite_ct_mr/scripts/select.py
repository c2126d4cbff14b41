"""After training: how much of the change is kept, decided on validation patients alone."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import numpy as np
import torch

from .lists import Lists
from .measure import measure, with_decoder
from .pages import pin_card
from .tune import CHECKPOINT, DECODER, blend

SHARES = (0.5, 0.75, 1.0)
TOLERANCE = 0.005


def select(lists: Lists, run: Path, bundle: Path) -> None:
    """Write `models/decoder.pt` and the card: the smallest share of the change that does.

    Between the published and the tuned weights lie others. Whatever moves less forgets
    less of what the published weights knew, so of all shares whose Dice on validation
    patients comes within `TOLERANCE` of the best, the smallest is taken.

    Parameters
    ----------
    lists : Lists
        Gives validation crops.
    run : Path
        Folder of the training's checkpoint.
    bundle : Path
        This bundle.
    """
    specs = lists.validation()
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    published = lists.network()
    before = copy.deepcopy(published.mask_decoder.state_dict())
    networks = {"0": published}
    for share in SHARES:
        decoder = blend(before, state["decoder"], share)
        networks[str(share)] = with_decoder(lists.network(), decoder)
    scores = measure(specs, lists.embeddings, networks, run / f"validation-{state['step']}.jsonl")
    means = {
        name: float(np.mean([s.dice for s in scores if s.method == name])) for name in networks
    }
    for name, mean in means.items():
        print(f"share {name}: Dice {mean:.3f} on {len(specs)} validation crops", flush=True)
    share = min(s for s in SHARES if means[str(s)] >= max(means.values()) - TOLERANCE)
    chosen = networks[str(share)].mask_decoder.state_dict()
    file = bundle / "models" / "decoder.pt"
    file.parent.mkdir(exist_ok=True)
    torch.save({DECODER + name: value.contiguous() for name, value in chosen.items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    pin_card(bundle, digest)
    print(f"share {share}, step {state['step']}: {file.name} sha256 {digest}", flush=True)
