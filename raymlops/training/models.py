"""Built-in architectures, and the door for the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from raymlops.config.training import FactoryModel, MlpModel
from raymlops.errors import ConfigError
from raymlops.features.state import ArraySpec

Inputs = Mapping[str, torch.Tensor]
ModelFactory = Callable[..., nn.Module]

ACTIVATIONS: dict[str, tuple[type[nn.Module], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": (nn.ReLU, torch.relu_),
    "gelu": (nn.GELU, F.gelu),
    "silu": (nn.SiLU, F.silu),
}
"""As a layer, and as a function, which may overwrite its argument."""


def build_model(model: MlpModel | FactoryModel, spec: ArraySpec, factory: ModelFactory | None = None) -> nn.Module:
    """A module that maps `{"numeric": (n, d), "categorical": (n, c), TENSOR: (n, ...)}` to (n,) or (n, classes).

    Outputs are standardised values (regression) or logits (binary, multiclass). Raises ConfigError when the user's
    factory fails or does not return a module.
    """
    if isinstance(model, MlpModel):
        return Mlp(model, spec)
    if factory is None:
        raise ConfigError(f"model.factory: {model.factory} was not resolved")
    try:
        built = factory(spec, **model.params)
    except Exception as error:
        raise ConfigError(f"model.factory: {model.factory} raised {type(error).__name__}: {error}") from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f"model.factory: {model.factory} returned {type(built).__name__}, expected a torch.nn.Module")
    return built


class Mlp(nn.Module):
    """Embeddings of the categorical columns beside the numeric ones (and flattened tensors), then dense layers."""

    def __init__(self, model: MlpModel, spec: ArraySpec) -> None:
        super().__init__()
        self.tensors = sorted(spec.tensors)
        widths = [min(model.embedding, math.ceil(size / 2)) for size in spec.cardinalities]
        tables = [nn.Embedding(size, width) for size, width in zip(spec.cardinalities, widths, strict=True)]
        for table in tables:
            # Index 0 (missing) and 1 (unknown) may never occur in training; zero is the neutral thing to serve then.
            nn.init.zeros_(table.weight[:2])
        self.embeddings = nn.ModuleList(tables)
        width = spec.numeric + sum(math.prod(shape) for shape in spec.tensors.values()) + sum(widths)
        layers: list[nn.Module] = []
        activation, self._activation = ACTIVATIONS[model.activation]
        for _ in range(model.layers):
            layers += [nn.Linear(width, model.hidden), activation()]
            if model.dropout > 0:
                layers.append(nn.Dropout(model.dropout))
            width = model.hidden
        layers.append(nn.Linear(width, spec.outputs))
        self.layers = nn.Sequential(*layers)
        self.flat_output = spec.outputs == 1
        # The same parameters once more, not to be looked up: for one row, calling the modules takes as long as they do.
        self._tables = [table.weight for table in tables]
        *self._hidden, self._last = [(layer.weight, layer.bias) for layer in layers if isinstance(layer, nn.Linear)]
        self._dropout = model.dropout

    def forward(self, inputs: Inputs) -> torch.Tensor:
        parts = [inputs["numeric"]] if "numeric" in inputs else []
        parts += [inputs[name].flatten(1) for name in self.tensors]
        if self._tables:
            columns = inputs["categorical"].unbind(1)
            parts += [torch.embedding(table, column) for table, column in zip(self._tables, columns, strict=True)]
        out = torch.cat(parts, 1)
        for weight, bias in self._hidden:
            out = self._activation(F.linear(out, weight, bias))
            if self._dropout > 0:
                out = F.dropout(out, self._dropout, self.training)
        out = F.linear(out, *self._last)
        return out.squeeze(1) if self.flat_output else out
