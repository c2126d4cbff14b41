"""Weights of a prompted network: read as plain tensors, judged, loaded strictly.

Whoever loads weights of SAM does it here: the import of weights that a site brings,
and the network before its first picture. What is wrong is said before any inference.

WeightsUnreadable   RL-1903   no weights file of torch, truncated or damaged
WeightsOfOtherSize  RL-1904   many fewer or more bytes than the network has
WeightsNotPlain     RL-1905   holds a program or objects
WeightsMisfit       RL-1906   other tensors than the network's
WeightsNotFinite    RL-1907   a number in it is none
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from operators.errors import ModelRefusal
from operators.models.medsam.layout import Layout, in_sam_layout, layout_of
from operators.models.medsam.networks import build_network

# Names and padding add a few per cent to the tensors' own bytes, to small networks more.
SMALLEST, LARGEST, SLACK_BYTES = 0.98, 1.1, 1 << 20
AGAIN = "Fetch or copy the file again."


class WeightsUnreadable(ModelRefusal):
    """Not a weights file, or not all of it."""

    code = "RL-1903"

    def __init__(self, bundle: str, called: str, why: str, remedy: str = AGAIN) -> None:
        super().__init__(f"bundle '{bundle}': {called} can't be read ({why}). {remedy}")


class WeightsOfOtherSize(ModelRefusal):
    """By its size alone it is another file."""

    code = "RL-1904"

    def __init__(self, bundle: str, called: str, found: int, expected: int) -> None:
        super().__init__(
            f"bundle '{bundle}': {called} holds {found / 1e6:.1f} MB, its network has "
            f"{expected / 1e6:.1f} MB of float32 weights. It is truncated, or the weights of "
            f"another network. `radloop bundles show {bundle}` names the right file."
        )


class WeightsNotPlain(ModelRefusal):
    """More than tensors: loading it would run what somebody put into it."""

    code = "RL-1905"

    def __init__(self, bundle: str, called: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {called} holds more than tensors, which could be a program; "
            "it was not run. Take the file from its publisher, or save the state dict alone."
        )


class WeightsMisfit(ModelRefusal):
    """Tensors of another network."""

    code = "RL-1906"

    def __init__(self, bundle: str, called: str, what: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {called} does not fit its network: {what}. "
            f"`radloop bundles show {bundle}` names the right file."
        )


class WeightsNotFinite(ModelRefusal):
    """NaN or infinity among the numbers."""

    code = "RL-1907"

    def __init__(self, bundle: str, called: str, tensor: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {called} holds a number that is none (NaN or infinite) in "
            f"{tensor}. {AGAIN}"
        )


def load_weights(bundle: str, network: nn.Module, file: Path) -> Layout:
    """Put the weights of a file into a network, all of them or none.

    Parameters
    ----------
    bundle : str
        Only for the messages.
    network : torch.nn.Module
        With the names of SAM's own layout.
    file : Path
        Written by `torch.save`, in SAM's layout or transformers'.

    Returns
    -------
    str
        The layout that the file has.

    Raises
    ------
    ModelRefusal
        One of those above.
    """
    layout, state = _judged(bundle, network, file, file.name)
    network.load_state_dict(state, strict=True)
    return layout


def check_weights(bundle: str, target: str, file: Path, *, called: str) -> Layout:
    """Judge a file without putting it to use; as `load_weights`.

    Parameters
    ----------
    bundle : str
        Only for the messages.
    target : str
        Name of the network, a key of `NETWORKS`.
    file : Path
        See `load_weights`.
    called : str
        What the person who brings it calls it.
    """
    with torch.device("meta"):  # shapes only
        network = build_network(target)
    return _judged(bundle, network, file, called)[0]


def _judged(
    bundle: str, network: nn.Module, file: Path, called: str
) -> tuple[Layout, dict[str, Tensor]]:
    needed = network.state_dict()
    _check_size(bundle, file, called, sum(tensor.nbytes for tensor in needed.values()))
    state = _read(bundle, file, called)
    layout = layout_of(state)
    try:
        state = in_sam_layout(state)
    except ValueError as error:
        raise WeightsMisfit(bundle, called, str(error)) from error
    if what := _misfit(state, needed):
        raise WeightsMisfit(bundle, called, what)
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsNotFinite(bundle, called, name)
    return layout, state


def _check_size(bundle: str, file: Path, called: str, expected: int) -> None:
    """Before anything is read: as many bytes as the network needs, packed and unpacked."""
    sizes = [file.stat().st_size]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            sizes.append(sum(entry.file_size for entry in archive.infolist()))
    for size in sizes:
        if not SMALLEST * expected <= size <= LARGEST * expected + SLACK_BYTES:
            raise WeightsOfOtherSize(bundle, called, size, expected)


def _read(bundle: str, file: Path, called: str) -> dict[str, Tensor]:
    with file.open("rb") as reader:
        head = reader.read(9)
    if head[8:] == b"{":
        remedy = "Take the same weights as pytorch_model.bin or .pth."
        raise WeightsUnreadable(bundle, called, "a safetensors file", remedy)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # A pickle begins with its protocol, a zip with its name; what begins otherwise is neither.
        if head[:1] == b"\x80" or head[:2] == b"PK":
            raise WeightsNotPlain(bundle, called) from error
        raise WeightsUnreadable(bundle, called, "no weights file of torch") from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise WeightsNotPlain(bundle, called) from error
        raise WeightsUnreadable(bundle, called, "truncated or damaged") from error
    except (EOFError, AttributeError, TypeError, ValueError, KeyError, OSError) as error:
        raise WeightsUnreadable(bundle, called, "truncated or damaged") from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not all(map(_is_plain, state.items())):
        raise WeightsMisfit(bundle, called, "it is no mapping of names to tensors of floats")
    return dict(state)


def _is_plain(item: tuple[Any, Any]) -> bool:
    name, tensor = item
    return (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.dtype in (torch.float32, torch.int64)  # batch norm counts its batches
    )


def _misfit(state: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> str:
    """What is missing, unknown or of another shape; "" where it fits."""
    wrong = {
        "missing": sorted(needed.keys() - state.keys()),
        "unknown": sorted(state.keys() - needed.keys()),
        "of another shape or type": sorted(
            name
            for name in state.keys() & needed.keys()
            if state[name].shape != needed[name].shape or state[name].dtype != needed[name].dtype
        ),
    }
    return "; ".join(
        f"{len(names)} tensors {kind} ({names[0]}{' …' if names[1:] else ''})"
        for kind, names in wrong.items()
        if names
    )
