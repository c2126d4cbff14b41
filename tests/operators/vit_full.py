"""ViT-B at its full size against transformers: `make vit-full` (no test: minutes, 4 GB).

The tests compare a small encoder with every prompt, and the names and shapes of the
full one; this compares the numbers of the full one, in both layouts of its weights.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from operators.models.medsam.vit import MedSamVit
from operators.models.medsam.weights import load_weights
from tests.operators import vit_oracle
from tests.operators.vit_oracle import ANSWERS, VIT_B, WEIGHTS

PEERS = Path(__file__).parent.parent.parent / "var" / "peers"
LARGEST_DIFFERENCE = 1e-4


def main() -> None:
    """Print the largest differences; exit code 1 where one is too large."""
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = Path(temporary)
        subprocess.run(
            [sys.executable, vit_oracle.__file__, str(folder), json.dumps(VIT_B)],
            env={**os.environ, "PYTHONPATH": str(PEERS), "HF_HUB_OFFLINE": "1"},
            check=True,
        )
        expected = np.load(folder / ANSWERS)
        first, network = MedSamVit(), MedSamVit()
        assert load_weights("medsam_vit_b", first, folder / WEIGHTS) == "transformers"
        torch.save(first.state_dict(), folder / "medsam_vit_b.pth")
        del first
        assert load_weights("medsam_vit_b", network, folder / "medsam_vit_b.pth") == "SAM"
        network.eval()
        began = time.process_time()
        embedding = network.encode(vit_oracle.picture())
        seconds = time.process_time() - began
        logits, iou = network.decode(embedding, torch.tensor(vit_oracle.BOXES))
    found = {"embedding": embedding, "boxes logits": logits, "boxes iou": iou}
    worst = 0.0
    for name, value in found.items():
        of_sam = name if name == "embedding" else f"{name}, eps of SAM"
        for key in dict.fromkeys((name, of_sam)):
            difference = float(np.abs(value.numpy() - expected[key]).max())
            largest = float(np.abs(expected[key]).max())
            print(f"{key}: largest difference {difference:.1e}, largest value {largest:.2f}")
        worst = max(worst, difference)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"encoder {seconds:.1f} s of processor time; peak memory {peak_mb:.0f} MB")
    if worst > LARGEST_DIFFERENCE:
        sys.exit(f"largest difference {worst:.1e} is above {LARGEST_DIFFERENCE:.0e}")


if __name__ == "__main__":
    main()
