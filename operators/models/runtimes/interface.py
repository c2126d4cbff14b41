"""What a runtime is: tensors in, tensors out, and a name that goes into every result.

A network is called whole, or in parts that are called apart (an image encoder once a
slice, a mask decoder once a prompt). All parts of one network run in one runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

Format = Literal["torch", "onnx", "openvino"]
Precision = Literal["float32", "bfloat16"]

# What a card calls the runtime that reads a format.
RUNTIME_OF: Mapping[str, str] = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
WHOLE = "network"
"""Name of the only part of a network that is called whole."""


class Runtime(Protocol):
    """One part of a network, ready to be called from any thread."""

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Tensors of shape (batch, …) in, float32; a tensor or a tuple of tensors out.

        What comes out is on the device of the first input, and nobody else's memory.

        Raises
        ------
        WindowUnfit
            A shape that the part was not exported for.
        """
        ...


@dataclass(frozen=True)
class Subject:
    """Whose network it is. Another of these is another network.

    Attributes
    ----------
    bundle : str
        Name of the bundle.
    weights_sha256 : str
        Of the weights that are loaded.
    config_sha256 : str
        Of its inference config, card, metadata and scripts.
    """

    bundle: str
    weights_sha256: str
    config_sha256: str


@dataclass(frozen=True)
class Serving:
    """The runtime that was chosen.

    Attributes
    ----------
    name : str
        ``RUNTIME-DEVICE-PRECISION[-VERSION]``, e.g. ``openvino-cpu-bfloat16-2026.4.1``;
        goes into `ModelIdentity.runtime`.
    parts : mapping of str to Runtime
        The network's parts by name.
    """

    name: str
    parts: Mapping[str, Runtime]
