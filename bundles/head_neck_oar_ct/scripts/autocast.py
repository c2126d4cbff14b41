"""bfloat16 on whatever device trains: MONAI's own `amp` switch knows CUDA only."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer


class AutocastInferer(Inferer):
    """Run another inferer under `torch.autocast`.

    Parameters
    ----------
    inferer : monai.inferers.Inferer
        The one that does the work.
    device_type : str
        ``"cpu"`` or ``"cuda"``.
    enabled : bool
        False leaves float32.
    """

    def __init__(self, inferer: Inferer, device_type: str, enabled: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.device_type = device_type
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Whatever the wrapped inferer returns, in float32."""
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.enabled):
            outputs = self.inferer(inputs, network, *args, **kwargs)
        return outputs.float()
