"""Layers of another library run in the place of the model's own."""

from __future__ import annotations

import copy

import pytest
import torch
from support.checkpoints import LLAMA
from support.engine import collect, fingerprint, make_arm, open_family
from torch import nn

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, ReplaceLayer, Scale, Smooth


def silence(layer: DecoderLayer) -> nn.Module:
    """Return a copy of a layer whose down-projection gives nothing."""
    silenced = copy.deepcopy(layer.module)
    nn.init.zeros_(silenced.mlp.down_proj.weight)
    return silenced


def name_all(layer: DecoderLayer) -> AddressGroup:
    down = layer.down_projections[0]
    places = torch.cartesian_prod(*(torch.arange(size) for size in down.shape))
    return AddressGroup(parameter=down.parameter, rows=places[:, 0].tolist(), columns=places[:, 1].tolist())


def test_a_replacing_layer_runs_in_the_layers_place_and_leaves_the_layer_alone() -> None:
    checkpoint = open_family(LLAMA)
    replaced: list[str] = []

    def make(layer: DecoderLayer) -> nn.Module:
        replaced.append(layer.name)
        return silence(layer)

    arms = [
        BASELINE,
        make_arm(ReplaceLayer(method="zeros"), label="other library"),
        make_arm(
            *(Scale(addresses=(name_all(layer),), factor=0.0) for layer in checkpoint.layers), label="by hand"
        ),
    ]
    before = fingerprint(checkpoint)
    seen = collect(checkpoint, arms, factories={"zeros": make})
    assert replaced == [layer.name for layer in checkpoint.layers]
    assert torch.equal(seen[0, 1], seen[0, 2])
    assert not torch.equal(seen[0, 1], seen[0, 0])
    assert fingerprint(checkpoint) == before


def test_a_method_that_is_not_given_or_not_alone_is_refused() -> None:
    checkpoint = open_family(LLAMA)
    with pytest.raises(KeyError, match="gone"):
        collect(checkpoint, [BASELINE, make_arm(ReplaceLayer(method="gone"))])
    both = make_arm(ReplaceLayer(method="zeros"), Smooth(alpha=0.5))
    with pytest.raises(ValueError, match="stands in"):
        collect(checkpoint, [BASELINE, both], factories={"zeros": silence})
