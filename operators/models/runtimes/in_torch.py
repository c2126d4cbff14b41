"""torch itself: the module as it is, or under autocast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from operators.models.runtimes.interface import Precision, Serving

if TYPE_CHECKING:
    import torch


class TorchRuntime:
    """A module on one device.

    Parameters
    ----------
    module : torch.nn.Module
        Evaluating, on `device`.
    device : torch.device
        Inputs from elsewhere are brought there, to a GPU through pinned memory.
    precision : Precision
        ``bfloat16`` runs the products under autocast.
    """

    def __init__(
        self, module: torch.nn.Module, device: torch.device, precision: Precision = "float32"
    ) -> None:
        self._module, self._device, self._precision = module, device, precision

    def __call__(self, *inputs: Any) -> Any:
        import torch

        home = inputs[0].device if isinstance(inputs[0], torch.Tensor) else self._device
        moved = [self._brought(value) for value in inputs]
        if self._precision == "float32":
            return _at(self._module(*moved), home)
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            found = self._module(*moved)
        return _at(found, home)

    def _brought(self, value: Any) -> Any:
        import torch

        # A GPU without a number is also the one with number 0.
        if not isinstance(value, torch.Tensor) or value.device.type == self._device.type:
            return value
        if self._device.type == "cuda" and value.device.type == "cpu":
            return value.pin_memory().to(self._device, non_blocking=True)
        return value.to(self._device)


def _at(found: Any, home: torch.device) -> Any:
    """Tensors on `home` and in float32; what is no tensor goes through as it is."""
    import torch

    if isinstance(found, tuple):
        return tuple(_at(value, home) for value in found)
    if isinstance(found, torch.Tensor) and found.is_floating_point():
        return found.to(home, torch.float32)
    return found


def in_torch(
    parts: Mapping[str, torch.nn.Module], device: torch.device, precision: Precision = "float32"
) -> Serving:
    """Serve modules by torch; without a version in the name, as results have always named it.

    On a CPU in float32 the parts are the modules themselves.
    """
    as_they_are = device.type == "cpu" and precision == "float32"
    return Serving(
        name=f"torch-{device.type}-{precision}",
        parts=dict(parts)
        if as_they_are
        else {name: TorchRuntime(part, device, precision) for name, part in parts.items()},
    )
