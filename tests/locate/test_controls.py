"""What super weights are compared with is chosen as the check says."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.controls import (
    Involved,
    count_weights,
    draw_placebos,
    find_involved,
    find_largest_weights,
    list_matrices,
)
from sw_audit.locate.locator import locate_super_weights
from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import CONTROL_KINDS
from sw_audit.record.location import Location
from sw_audit.testing.families import Numerals

LLAMA = wrap_model(build_llama())
DOWN = "model.layers.2.mlp.down_proj.weight"


def value(address: WeightAddress) -> float:
    return float(LLAMA.matrix(address.parameter).weight[address.row, address.column])


def test_the_largest_weights_are_those_of_the_decoder_without_the_excluded() -> None:
    every = torch.cat([matrix.weight.abs().flatten() for matrix in list_matrices(LLAMA.layers)])
    excluded = find_largest_weights(LLAMA.layers, 3, ())
    largest = find_largest_weights(LLAMA.layers, 40, excluded)
    expected = every.topk(43).values[3:]
    assert [abs(value(address)) for address in largest] == expected.tolist()
    assert not set(largest) & set(excluded)
    assert not any("embed" in address.parameter or "norm" in address.parameter for address in largest)


def test_a_transposed_layout_is_addressed_by_output_and_input_channel() -> None:
    gpt2 = wrap_model(build_gpt2())
    with torch.no_grad():
        gpt2.model.transformer.h[3].mlp.c_proj.weight[150, 7] = 99.0  # stored (in, out)
    [address] = find_largest_weights(gpt2.layers, 1, ())
    assert (address.parameter, address.row, address.column) == ("transformer.h.3.mlp.c_proj.weight", 7, 150)


def test_every_decoder_matrix_is_counted_once() -> None:
    # Per layer: q 48x48, k and v 24x48, o 48x48, gate, up and down 48x112.
    assert count_weights(LLAMA.layers) == 6 * (2 * 48 * 48 + 2 * 24 * 48 + 3 * 48 * 112)


@settings(max_examples=30, deadline=None)
@given(
    row=st.integers(0, 47),
    column=st.integers(0, 111),
    kind=st.sampled_from(CONTROL_KINDS),
    seed=st.text(max_size=3),
)
def test_a_placebo_matches_in_its_kind_and_is_never_the_super_weight(
    row: int, column: int, kind: str, seed: str
) -> None:
    target = WeightAddress(parameter=DOWN, row=row, column=column)
    [drawn] = draw_placebos(LLAMA.layers, [target], kind, seed)
    assert drawn != target
    assert draw_placebos(LLAMA.layers, [target], kind, seed) == (drawn,)
    if kind == "same-row":
        assert (drawn.parameter, drawn.row) == (DOWN, row)
    elif kind == "same-column":
        assert (drawn.parameter, drawn.column) == (DOWN, column)
    elif kind == "same-magnitude":
        assert drawn.parameter != DOWN
        own = LLAMA.matrix(DOWN).weight.abs()
        other = LLAMA.matrix(drawn.parameter).weight.abs()
        rank, matched = int((own > abs(value(target))).sum()), int((other > abs(value(drawn))).sum())
        assert matched - rank in (0, 1)  # one is not drawn: what the weights alone point at


def test_a_set_of_placebos_has_no_scalar_twice() -> None:
    targets = [WeightAddress(parameter=DOWN, row=3, column=column) for column in range(6)]
    for kind in CONTROL_KINDS:
        drawn = draw_placebos(LLAMA.layers, targets, kind, "0")
        assert len(set(drawn)) == len(drawn) == 6
        assert not set(drawn) & set(targets)


ROW, NEURON, EARLIER = 3, 30, 9


def plant_twice() -> tuple[Checkpoint, Location, Involved]:
    """Plant a super activation that layer 0 makes, layer 2 takes down and layer 3 makes again."""
    checkpoint = wrap_model(build_llama(layers=8), Numerals())
    for layer, column, spike in ((0, EARLIER, 60.0), (2, 17, -59.0), (3, NEURON, 900.0)):
        plant_(checkpoint, Planted(layer, ROW, column), spike=spike)
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    return checkpoint, location, find_involved(checkpoint, location)


def test_what_has_a_part_in_a_super_activation_is_known() -> None:
    checkpoint, location, involved = plant_twice()

    def holds(parameter: str, row: int, column: int) -> bool:
        return involved.holds(checkpoint.matrix(f"model.layers.{parameter}.weight"), row, column)

    assert {ROW} <= involved.channels
    assert len(involved.channels) < 10
    assert set(location.addresses) <= involved.addresses
    calm = next(channel for channel in range(48) if channel not in involved.channels)
    assert holds("5.self_attn.o_proj", ROW, calm)  # writes into the channel
    assert not holds("5.self_attn.o_proj", calm, calm)
    assert holds("5.mlp.gate_proj", 100, ROW)  # reads from it
    assert holds("3.mlp.gate_proj", NEURON, calm)  # leads into the neuron that makes it
    assert holds("0.mlp.up_proj", EARLIER, calm)  # the same of the earlier stage
    assert not holds("5.mlp.gate_proj", 100, calm)
    down = checkpoint.matrix("model.layers.5.mlp.down_proj.weight")
    attention = checkpoint.matrix("model.layers.5.self_attn.o_proj.weight")
    assert involved.feeds(down, ROW, 4)
    assert not involved.feeds(down, calm, 4)
    assert not involved.feeds(attention, ROW, 4)
    assert involved.feeds(checkpoint.matrix("model.layers.3.mlp.gate_proj.weight"), NEURON, calm)
    assert not involved.feeds(checkpoint.matrix("model.layers.5.mlp.gate_proj.weight"), 100, ROW)


def test_controls_have_no_part_in_a_super_activation_and_enough_are_left() -> None:
    checkpoint, location, involved = plant_twice()
    for kind in CONTROL_KINDS:
        drawn = {
            draw_placebos(checkpoint.layers, location.addresses, kind, str(seed), involved) for seed in range(80)
        }
        assert len(drawn) >= 4
        for [address] in drawn:
            assert address not in involved.addresses
            if kind != "same-row":
                assert not involved.holds(checkpoint.matrix(address.parameter), address.row, address.column)


def test_a_control_in_the_super_weights_own_row_adds_next_to_nothing_to_the_channel() -> None:
    checkpoint, location, _ = plant_twice()
    with torch.no_grad():
        # Much louder than what a random row holds, and still far less than the super weight.
        down = checkpoint.matrix("model.layers.3.mlp.down_proj.weight")
        down.weight[ROW, 40:] = 200.0
    involved = find_involved(checkpoint, location)
    [quiet] = involved.quiet.values()
    loud = {column for column in range(40, 112) if not bool(quiet[column])}
    assert 10 < len(loud) < 72
    assert not bool(quiet[NEURON])
    for seed in range(30):
        [drawn] = draw_placebos(checkpoint.layers, location.addresses, "same-row", str(seed), involved)
        assert (drawn.parameter, drawn.row) == (location.addresses[0].parameter, ROW)
        assert drawn.column not in loud


def test_what_the_weights_alone_point_at_is_no_control() -> None:
    checkpoint = wrap_model(build_llama())
    for layer in (0, 1, 3, 4, 5):
        matrices = [checkpoint.matrix(f"model.layers.{layer}.mlp.{name}_proj.weight") for name in ("gate", "up")]
        with torch.no_grad():
            checkpoint.matrix(f"model.layers.{layer}.mlp.down_proj.weight").weight[11, 50] = 9.0
            for matrix in matrices:
                matrix.weight[50] *= 20
    target = find_largest_weights(checkpoint.layers[2:3], 1, ())
    for seed in range(10):
        [drawn] = draw_placebos(checkpoint.layers, target, "same-magnitude", str(seed))
        assert (drawn.row, drawn.column) != (11, 50)
