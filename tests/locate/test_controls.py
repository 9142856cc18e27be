"""What super weights are compared with is chosen as the check says."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planted import build_gpt2, build_llama, wrap_model

from sw_audit.locate.controls import count_weights, draw_placebos, find_largest_weights, list_matrices
from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import CONTROL_KINDS

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
        assert int((own > abs(value(target))).sum()) == int((other > abs(value(drawn))).sum())


def test_a_set_of_placebos_has_no_scalar_twice() -> None:
    targets = [WeightAddress(parameter=DOWN, row=3, column=column) for column in range(6)]
    for kind in CONTROL_KINDS:
        drawn = draw_placebos(LLAMA.layers, targets, kind, "0")
        assert len(set(drawn)) == len(drawn) == 6
        assert not set(drawn) & set(targets)
