"""A super activation is attributed where it is largest, not where it leaks into: every sum is worked out here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DownProjection, LayerCall
from sw_audit.locate.attribution import Attribution, attribute_activations
from sw_audit.locate.probe import Probe, observe_every_token
from sw_audit.locate.settings import DEFAULT_SETTINGS
from sw_audit.record.location import SuperActivation

LAYERS, HIDDEN, INNER = 6, 4, 12
ROW = 2


def attribute(inputs: Tensor) -> Attribution:
    """Attribute what row 2 of layer 0, whose weights are all 1, makes of these inputs [tokens, inner]."""
    linear = nn.Linear(INNER, HIDDEN, bias=False)
    with torch.no_grad():
        linear.weight.zero_()[ROW] = 1.0
    down = DownProjection("layers.0.down.weight", linear.weight, False, 0, linear)
    outputs = inputs @ linear.weight.detach().T  # [tokens, hidden]
    probe = Probe(
        embedded=torch.zeros_like(outputs),
        residual=outputs.repeat(LAYERS, 1, 1),
        observations=(observe_every_token(down, inputs, outputs),),
        layers=LAYERS,
        entries=(),
        calls=(LayerCall((), {}, by_name=False),) * LAYERS,
    )
    values = {token: float(outputs[token, ROW]) for token in range(len(inputs))}
    activations = [
        SuperActivation(channel=ROW, token=token, value=value, first_layer=0, last_layer=LAYERS - 1)
        for token, value in sorted(values.items(), key=lambda pair: -abs(pair[1]))
    ]
    return attribute_activations(probe, activations, outputs[None], DEFAULT_SETTINGS)


def test_ten_products_of_ten_are_no_super_weight_though_one_product_makes_what_leaks_into_another_token() -> None:
    inputs = torch.zeros(2, INNER)
    inputs[0, :10] = 10.0  # 100 at token 0, of ten products
    inputs[1, 10] = 20.0  # 20 at token 1, of one product: a fifth of what stands at token 0
    attribution = attribute(inputs)
    assert [(activation.token, activation.value) for activation in attribution.activations] == [(0, 100.0)]
    assert len(attribution.causes[ROW]) == DEFAULT_SETTINGS.maximum_count + 1
    assert attribution.super_weights == ()


def test_of_two_tokens_that_are_nearly_as_large_the_one_is_judged_where_one_product_adds_most() -> None:
    inputs = torch.zeros(2, INNER)
    inputs[0, :10] = 10.0
    inputs[1, 10] = 60.0  # more than 100 / 2
    attribution = attribute(inputs)
    assert [(activation.token, activation.value) for activation in attribution.activations] == [(1, 60.0)]
    [weight] = attribution.super_weights
    assert (weight.layer, weight.row, weight.column, weight.share) == (0, ROW, 10, 1.0)
