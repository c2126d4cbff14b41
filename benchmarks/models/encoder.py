"""Part "encoder": image encoders against the GEMM peak, and a prompt on a cached slice."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models.clock import flops, gemm_calls, gemm_gflops, in_turn
from benchmarks.models.runtimes import calls, precision_of, ready
from operators.models.medsam.networks import NETWORKS, build_network
from operators.models.medsam.parts import ENCODER, exportable_parts

LITE = "operators.models.medsam.network.LiteMedSam"
VIT = "operators.models.medsam.vit.MedSamVit"


def measure(*, short: bool) -> dict[str, Any]:
    """Times, operations and shares of the peak, for each network and runtime."""
    result: dict[str, Any] = {"networks": {}}
    for name in (LITE,) if short else (LITE, VIT):
        if name not in NETWORKS:
            result["networks"][name] = {"missing": "not built in this version"}
            continue
        result["networks"][name] = _one(name, short=short)
    return result


def _one(name: str, *, short: bool) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    rounds = 1 if short else 7
    network = build_network(name)
    if short:  # one convolution in the encoder's place: what is tried is this benchmark
        stride = network.PICTURE_SIDE // 64
        network.image_encoder = torch.nn.Conv2d(3, 256, stride, stride=stride)
    network = network.eval().to(memory_format=torch.channels_last)
    parts = {part.name: part for part in exportable_parts(network)}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        encoder = parts[ENCODER]
        operations = flops(lambda: encoder.module(*encoder.samples[0]))
        runtimes, missing = ready(encoder, Path(folder))
        gemm = {f"GEMM {kind}": call for kind, call in gemm_calls().items()}
        seconds = in_turn({**gemm, **calls(runtimes, encoder.samples[0])}, rounds)
        peak = gemm_gflops({kind.split()[1]: seconds.pop(kind) for kind in gemm})
        # One box on a slice whose embedding is kept, which torch answers behind every encoder:
        # prompt encoder and decoder, no picture.
        embedding = network.encode(encoder.samples[0][0])
        box = torch.tensor([[0.2, 0.25, 0.7, 0.8]]) * network.PICTURE_SIDE

        def prompted() -> Any:
            with torch.inference_mode():
                return network.decode(embedding, box)

        (prompt_seconds,) = in_turn({"torch": prompted}, rounds).values()
    return {
        "gflop": operations / 1e9,
        "peak_gflops": peak,
        "encoder": {
            kind: {
                "seconds": taken,
                "of_peak": operations / taken / 1e9 / peak[precision_of(kind)],
                "prompt_seconds": prompt_seconds,
            }
            for kind, taken in seconds.items()
        },
        "missing": missing,
    }
