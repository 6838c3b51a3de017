"""The built-in network: what it computes is what its layers say."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from raymlops.config.training import MlpModel
from raymlops.features.state import ArraySpec
from raymlops.training.models import Mlp, build_model

SPEC = ArraySpec(
    numeric=3,
    cardinalities=(5, 9),
    tensors={"image": (2, 2)},
    outputs=1,
    numeric_names=("a", "b", "c"),
    categorical_names=("d", "e"),
)


def _inputs(rows: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(rows)
    codes = [torch.randint(0, size, (rows,), generator=draw, dtype=torch.int32) for size in SPEC.cardinalities]
    return {
        "numeric": torch.randn(rows, 3, generator=draw),
        "image": torch.randn(rows, 2, 2, generator=draw),
        "categorical": torch.stack(codes, 1),
    }


def _by_layers(model: Mlp, inputs: dict[str, torch.Tensor]) -> Any:
    columns = inputs["categorical"].unbind(1)
    embedded = [table(column) for table, column in zip(model.embeddings, columns, strict=True)]
    return model.layers(torch.cat([inputs["numeric"], inputs["image"].flatten(1), *embedded], 1)).squeeze(1)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("training", [False, True])
def test_the_short_forward_gives_the_bits_of_the_layers(
    activation: Literal["relu", "gelu", "silu"], training: bool
) -> None:
    model = build_model(MlpModel(kind="mlp", hidden=16, layers=2, dropout=0.3, activation=activation), SPEC)
    assert isinstance(model, Mlp)
    model.train(training)
    for rows in (1, 2, 33):
        inputs, found = _inputs(rows), []
        for forward in (model, lambda given: _by_layers(model, given)):
            torch.manual_seed(5)
            model.zero_grad()
            out = forward(inputs)
            out.sum().backward()
            found.append([out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        assert len(found[0]) == 1 + len(list(model.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_loaded_weights_are_the_ones_that_answer() -> None:
    """Also after a copy, a change of type and back, and a load: the forward holds no parameters of its own."""
    import copy

    torch.manual_seed(1)
    one, other = (build_model(MlpModel(kind="mlp", hidden=8), SPEC) for _ in range(2))
    copied = copy.deepcopy(other).double().float()
    copied.load_state_dict(one.state_dict())
    inputs = _inputs(4)
    assert torch.equal(copied(inputs), one(inputs))
    assert not torch.equal(other(inputs), one(inputs))
    assert sorted(copied.state_dict()) == sorted(one.state_dict())
