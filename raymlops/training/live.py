"""The objects that training changes step by step, as named tensors and back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from raymlops.training.state import Resumed

MODEL, BUFFER, OPTIMIZER, LOSS = "model/", "buffer/", "optimizer/", "loss_sum"


@dataclass
class Live:
    """Everything that a step reads and writes. Workers of one training hold equal ones; only the loss is their own."""

    model: nn.Module
    """Perhaps wrapped for data-parallel work."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss_sum: torch.Tensor
    """Of the epoch under way, a tensor: reading it every step would stall an accelerator."""

    @property
    def plain(self) -> nn.Module:
        wrapped = self.model
        return wrapped.module if isinstance(wrapped, nn.parallel.DistributedDataParallel) else wrapped

    def tensors(self) -> dict[str, torch.Tensor]:
        """References, not copies: `model/NAME`, `buffer/NAME` (those that a state dict leaves out),
        `optimizer/INDEX/KEY` with the parameter's index, and `loss_sum`."""
        weights = self.plain.state_dict()
        found = {f"{MODEL}{name}": tensor for name, tensor in weights.items()}
        found |= {f"{BUFFER}{name}": b for name, b in self.plain.named_buffers() if name not in weights}
        for index, values in self.optimizer.state_dict()["state"].items():
            kept = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
            found |= {f"{OPTIMIZER}{index}/{key}": value for key, value in kept.items()}
        return {**found, LOSS: self.loss_sum}

    def restore(self, resumed: Resumed) -> None:
        """Become what `resumed` was, and take its tensors out of it: they are as large as all that is alive.

        The learning rate is not part of it: it is a function of the step.
        """
        loss_sum = resumed.tensors.pop(LOSS)
        weights, moments = {}, defaultdict[int, dict[str, torch.Tensor]](dict)
        while resumed.tensors:
            name, tensor = resumed.tensors.popitem()
            if name.startswith(MODEL):
                weights[name.removeprefix(MODEL)] = tensor
            elif name.startswith(BUFFER):
                self.plain.get_buffer(name.removeprefix(BUFFER)).copy_(tensor)
            elif name.startswith(OPTIMIZER):
                index, key = name.removeprefix(OPTIMIZER).split("/", 1)
                # The optimiser keeps what it is given; a clone is aligned as its own would be.
                moments[int(index)][key] = tensor.clone()
        self.plain.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(moments), "param_groups": groups})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(resumed.scaler))
        self.loss_sum.copy_(loss_sum)
