"""Rounded matrices that stand in for a layer's own: which ones, on what, and in whose memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.engine import make_arm
from support.planted import build_gpt2, build_llama, wrap_model

from sw_audit.arms import rounding
from sw_audit.arms.apply import applied_arm, touches
from sw_audit.arms.matrices import SpareTensors
from sw_audit.arms.rounding import count_stored_bits, order_by_rounding
from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.errors import CorpusError
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.calibration import Calibration
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup, WeightAddress, group_addresses
from sw_audit.record.arm import Act, Quantize, Scale

LLAMA, GPT2 = wrap_model(build_llama()), wrap_model(build_gpt2())
RECIPE = parse_recipe("int3/group16")


def list_changed(layer: DecoderLayer, act: Quantize) -> list[str]:
    """Return the short names of the matrices that are others while an act is in force."""
    before = [matrix.weight.clone() for matrix in layer.matrices]
    with torch.no_grad(), applied_arm(make_arm(act), layer):
        changed = [
            matrix.parameter.split(".")[-2]
            for matrix, stored in zip(layer.matrices, before, strict=True)
            if not torch.equal(matrix.weight, stored)
        ]
    assert all(torch.equal(matrix.weight, stored) for matrix, stored in zip(layer.matrices, before, strict=True))
    return changed


def test_only_targets_that_are_not_ignored_are_rounded() -> None:
    layer = LLAMA.layers[2]
    mlp = ["gate_proj", "up_proj", "down_proj"]
    everything = ["q_proj", "k_proj", "v_proj", "o_proj", *mlp]
    for patterns, changed in (
        ({}, everything),
        ({"targets": ("*.mlp.*",)}, mlp),
        ({"targets": ("*.mlp.*",), "ignore": ("*.up_proj",)}, ["gate_proj", "down_proj"]),
        ({"ignore": ("*.mlp.*",)}, everything[:4]),
    ):
        assert list_changed(layer, Quantize(recipe=RECIPE, **patterns)) == changed


def test_a_layer_without_a_target_is_not_touched() -> None:
    arm = make_arm(Quantize(recipe=RECIPE, targets=("model.layers.[24].*",)))
    assert [touches(arm, layer) for layer in LLAMA.layers] == [False, False, True, False, True, False]
    assert list_changed(LLAMA.layers[3], Quantize(recipe=RECIPE, targets=("model.layers.[24].*",))) == []


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_memory_is_used_again_and_what_was_in_it_does_not_matter(model: object) -> None:
    layers = model.layers  # type: ignore[attr-defined]
    arms = [make_arm(Quantize(recipe=parse_recipe(name)), label=name) for name in ("int4/row", "int2/8x8/z2")]
    spare = SpareTensors()
    seen = set()
    for layer in layers:
        for arm in arms:
            act = arm.acts[0]
            assert isinstance(act, Quantize)
            expected = [round_to_nearest(matrix.weight, act.recipe) for matrix in layer.matrices]
            with torch.no_grad(), applied_arm(arm, layer, None, spare):
                for matrix, rounded in zip(layer.matrices, expected, strict=True):
                    assert torch.equal(matrix.weight, rounded)
                    seen.add(matrix.tensor.data_ptr())
    assert len(seen) == len(layers[0].matrices)


def test_spare_memory_never_holds_more_than_one_layer() -> None:
    spare = SpareTensors()
    taken = [spare.take(torch.empty(2, 3)), spare.take(torch.empty(3, 2))]
    spare.give_back((None, tensor) for tensor in taken)
    assert spare.take(torch.empty(3, 2)) is taken[1]
    # What does not fit is let go: another dtype is another layer's.
    spare.take(torch.empty(2, 3, dtype=torch.bfloat16))
    assert spare.take(torch.empty(2, 3)) is not taken[0]


def test_what_another_arm_rounded_alike_is_not_rounded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, spare = LLAMA.layers[2], SpareTensors()
    down = layer.down_projections[0]
    group = (AddressGroup(parameter=down.parameter, rows=(4,), columns=(9,)),)
    plain, kept = Quantize(recipe=RECIPE), Quantize(recipe=RECIPE, holdout=group)
    other, scaled = Quantize(recipe=parse_recipe("int4/row")), Scale(addresses=group, factor=3.0)
    rounded: list[torch.Size] = []

    def count(weight: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        rounded.append(weight.shape)
        return round_to_nearest(weight, *given, **named)

    monkeypatch.setattr(rounding, "round_to_nearest", count)

    def apply(*acts: Act) -> tuple[int, list[torch.Tensor]]:
        """Return how many matrices were rounded for an arm, and all of them; as many are expected alone."""
        rounded.clear()
        with torch.no_grad(), applied_arm(make_arm(*acts), layer, None, spare):
            count, weights = len(rounded), [matrix.weight.clone() for matrix in layer.matrices]
        with torch.no_grad(), applied_arm(make_arm(*acts), layer):
            alone = [matrix.weight.clone() for matrix in layer.matrices]
        assert all(map(torch.equal, weights, alone))
        return count, weights

    numbers = [apply(*acts)[0] for acts in ((plain,), (kept,), (plain,), (plain,), (other,), (plain,))]
    # All seven; that of which one keeps a scalar; the same again; none; all of another recipe; all again.
    assert numbers == [7, 1, 1, 0, 7, 7]
    # What an action before it has changed is rounded for this arm, and for no other.
    assert [apply(*acts)[0] for acts in ((scaled, plain), (plain,))] == [7, 7]
    # A weight that is written is another.
    weight = layer.matrices[0].weight
    before = weight.clone()
    with torch.no_grad():
        weight[0, 0] = 9.0
        assert apply(plain)[0] == 1
        weight.copy_(before)


def test_arms_that_begin_by_rounding_alike_follow_each_other() -> None:
    one, other = (Quantize(recipe=parse_recipe(name)) for name in ("int4/row", "int3/row"))
    group = (AddressGroup(parameter=LLAMA.layers[0].down_projections[0].parameter, rows=(4,), columns=(9,)),)
    scaled = Scale(addresses=group, factor=0.0)
    acts = ((scaled,), (one,), (other,), (scaled, other), (one, scaled), (other,), ())
    assert order_by_rounding([make_arm(*some) for some in acts]) == [0, 3, 6, 1, 4, 2, 5]


def test_memory_comes_back_after_an_exception_and_the_layer_is_as_it_was() -> None:
    spare, layer = SpareTensors(), LLAMA.layers[1]
    before = [matrix.tensor.data_ptr() for matrix in layer.matrices]
    with (
        pytest.raises(KeyboardInterrupt),
        torch.no_grad(),
        applied_arm(make_arm(Quantize(recipe=RECIPE)), layer, None, spare),
    ):
        raise KeyboardInterrupt
    assert [matrix.tensor.data_ptr() for matrix in layer.matrices] == before
    first = layer.matrices[0].tensor.data
    assert spare.take(first).data_ptr() not in (0, first.data_ptr())


def test_a_search_on_a_corpus_counts_errors_by_what_the_calibration_text_showed() -> None:
    layer, recipe = LLAMA.layers[2], parse_recipe("int2/row/search")
    generator = torch.Generator().manual_seed(0)
    shown = {matrix.parameter: torch.rand(matrix.shape[1], generator=generator) ** 8 for matrix in layer.matrices}
    calibration = Calibration(largest={}, runner_up={}, mean_share=shown)
    expected = [
        round_to_nearest(matrix.weight, recipe, None, shown[matrix.parameter] + shown[matrix.parameter].mean())
        for matrix in layer.matrices
    ]
    free = [round_to_nearest(matrix.weight, parse_recipe("int2/row/search-weights")) for matrix in layer.matrices]
    arm = make_arm(Quantize(recipe=recipe))
    with torch.no_grad(), applied_arm(arm, layer, calibration):
        for matrix, rounded, without in zip(layer.matrices, expected, free, strict=True):
            assert torch.equal(matrix.weight, rounded)
            assert not torch.equal(matrix.weight, without)


def test_a_search_without_anything_to_learn_from_is_one_line() -> None:
    arm = make_arm(Quantize(recipe=parse_recipe("int4/row/search")))
    layer = LLAMA.layers[2]
    before = [matrix.tensor.data_ptr() for matrix in layer.matrices]
    refused = pytest.raises(CorpusError, match=r"search' for model\.layers\.2\.self_attn\.q_")
    with refused, torch.no_grad(), applied_arm(arm, layer, None):
        raise AssertionError("the arm was put in force")
    assert [matrix.tensor.data_ptr() for matrix in layer.matrices] == before


def test_where_the_text_never_came_all_columns_count_alike() -> None:
    layer = LLAMA.layers[2]
    free = [round_to_nearest(matrix.weight, parse_recipe("int2/row/search-weights")) for matrix in layer.matrices]
    arm = make_arm(Quantize(recipe=parse_recipe("int2/row/search")))
    nothing = Calibration(largest={}, runner_up={}, mean_share={})
    with torch.no_grad(), applied_arm(arm, layer, nothing):
        assert all(
            torch.equal(matrix.weight, rounded) for matrix, rounded in zip(layer.matrices, free, strict=True)
        )


def test_bits_count_codes_scales_held_out_scalars_and_what_is_left_alone() -> None:
    layers = wrap_model(build_llama(layers=2)).layers
    down = layers[0].down_projection
    assert down is not None
    every = [math.prod(matrix.shape) for layer in layers for matrix in layer.matrices]
    held = group_addresses([WeightAddress(parameter=down.parameter, row=1, column=2)])
    downs = Quantize(recipe=parse_recipe("int4/tensor"), targets=("*.down_proj",), holdout=held)
    size = math.prod(down.shape)
    # Of each a scale and a lower end; one has a scalar's value and its place; the rest stays in 32 bits.
    bits = 2 * (4 * size + 32) + 16 + (size - 1).bit_length() + 32 * (sum(every) - 2 * size)
    assert count_stored_bits(downs, layers) == (bits / sum(every), len(every) - 2)
    rows = Quantize(recipe=parse_recipe("int8/row/symmetric"))
    scales = sum(16 * matrix.shape[0] for layer in layers for matrix in layer.matrices)
    assert count_stored_bits(rows, layers) == ((8 * sum(every) + scales) / sum(every), 0)
