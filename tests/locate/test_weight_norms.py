from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.checkpoints import DENSE, EXPERTS, GPT2, HIDDEN, LLAMA, Family, make_model
from support.evidence import make_location
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.weight_norms import (
    find_inward_matrices,
    measure_drive,
    predict_from_weights,
    predict_layer,
    score_rows,
)
from sw_audit.record.location import Location, Outcome, SuperWeight, WeightNormPrediction

OPT = next(family for family in DENSE if family.model_type == "opt")


def locate_by_hand(layer: DecoderLayer, *places: tuple[int, int]) -> Location:
    """Return a location that names these rows and columns of one layer."""
    down = layer.down_projections[0]
    weights = tuple(
        SuperWeight(parameter=down.parameter, row=row, column=column, layer=layer.index, value=1.0, share=0.5)
        for row, column in places
    )
    return make_location().model_copy(update={"super_weights": weights})


def predict(checkpoint: Checkpoint, location: Location) -> WeightNormPrediction | None:
    return predict_from_weights(checkpoint.layers, location).weight_norm_prediction


def open_model(family: Family) -> Any:
    return wrap_model(randomize_(make_model(family)))


def randomize_(model: Any) -> Any:
    """Give every matrix a scale of its own, so that no two can be taken for each other."""
    generator = torch.Generator().manual_seed(3)
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim >= 2:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.05 + 0.01 * (number % 7))
    return model


def check_drive(
    down: DownProjection,
    inward: Sequence[Matrix],
    entering: Tensor,
    tensors: Sequence[Tensor],
    counts: tuple[int, ...] = (1, 2),
) -> None:
    """Compare drives with the rows of the inward matrices that a neuron depends on, as autograd sees it."""
    drive = measure_drive(down, inward)
    assert drive.shape == (down.weight.shape[1],)
    for neuron in (0, 1, len(drive) - 1):
        gradients = torch.autograd.grad(entering[:, neuron].sum(), tensors, retain_graph=True)
        rows = [
            matrix.weight.detach()[row]
            for matrix, gradient in zip(inward, gradients, strict=True)
            for row in (gradient if gradient.shape == matrix.shape else gradient.T)
            .abs()
            .sum(1)
            .nonzero()
            .flatten()
            .tolist()
        ]
        assert len(rows) in counts
        expected = math.prod(float(row.double().square().sum()) for row in rows)
        assert float(drive[neuron]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", DENSE, ids=str)
def test_a_neurons_drive_is_the_product_of_the_rows_that_it_depends_on(family: Family) -> None:
    checkpoint = open_model(family)
    layer = checkpoint.layers[1]
    down = layer.down_projection
    inward = find_inward_matrices(layer, down)
    entering: list[Tensor] = []
    down.module.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    for matrix in inward:
        matrix.tensor.requires_grad_(True)
    checkpoint.model(input_ids=torch.tensor([[1, 5, 7, 9]]), use_cache=False)
    check_drive(down, inward, entering[0].flatten(0, -2), [matrix.tensor for matrix in inward])


@pytest.mark.parametrize("family", EXPERTS, ids=str)
def test_gate_and_up_of_an_expert_are_paired_as_its_activation_pairs_them(family: Family) -> None:
    checkpoint = open_model(family)
    layer = checkpoint.layers[1]
    down = next(down for down in layer.down_projections if down.fused is not None and down.expert == 2)
    inward = find_inward_matrices(layer, down)
    assert {matrix.expert for matrix in inward} == {2}
    weights = [matrix.weight.clone().requires_grad_(True) for matrix in inward]
    states = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(1))
    entering = down.fused.activate([states @ weight.T for weight in weights])
    check_drive(down, inward, entering, weights, counts=(2,))


def test_square_attention_beside_a_square_mlp_is_not_taken_for_it() -> None:
    checkpoint = wrap_model(randomize_(make_model(OPT, ffn_dim=HIDDEN)))
    layer = checkpoint.layers[0]
    assert len([matrix for matrix in layer.matrices if matrix.weight.shape == (HIDDEN, HIDDEN)]) == 6
    down = layer.down_projection
    assert [matrix.parameter for matrix in find_inward_matrices(layer, down)] == [
        "model.decoder.layers.0.fc1.weight"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_score_is_the_sum_in_the_head_of_the_file(dtype: torch.dtype) -> None:
    checkpoint = wrap_model(build_llama(dtype=dtype))
    layer = checkpoint.layers[3]
    down = layer.down_projection
    block = checkpoint.model.model.layers[3].mlp
    gate, up, weight = (
        module.weight.double().tolist() for module in (block.gate_proj, block.up_proj, block.down_proj)
    )
    drive = measure_drive(down, find_inward_matrices(layer, down))
    scores = score_rows(down, drive)
    squared = [sum(g * g for g in gate[i]) * sum(u * u for u in up[i]) for i in range(len(gate))]
    for row in (0, 17, len(weight) - 1):
        expected = sum(weight[row][i] ** 2 * squared[i] for i in range(len(squared))) ** 0.5
        assert float(scores[row]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_the_prediction_agrees_on_a_planted_super_weight_and_on_no_other_place(build: Any) -> None:
    checkpoint = wrap_model(build())
    planted = Planted(layer=1, row=7, column=29)
    plant_(checkpoint, planted)
    layer = checkpoint.layers[1]
    prediction = predict(checkpoint, locate_by_hand(layer, (7, 29)))
    [entry] = prediction.weights
    assert (entry.row_rank, entry.column_rank, entry.agrees, prediction.agrees) == (1, 1, True, True)
    assert entry.row_ratio == entry.largest_ratio
    assert entry.row_ratio > 2
    assert entry.share > 0.8
    assert (entry.rows, entry.columns) == layer.down_projections[0].weight.shape
    for place in ((7, 30), (8, 29)):
        other = predict(checkpoint, locate_by_hand(layer, place))
        assert other.agrees is False
        assert (other.weights[0].row_rank == 1) == (place[0] == 7)


def test_siblings_share_the_first_places() -> None:
    checkpoint = wrap_model(build_llama())
    plant_(checkpoint, Planted(layer=1, row=7, column=29), spike=60.0)
    layer = checkpoint.layers[1]
    down = layer.down_projection
    with torch.no_grad():
        down.weight[9, 29] = down.weight[7, 29] * 0.8
    both = predict(checkpoint, locate_by_hand(layer, (7, 29), (9, 29)))
    assert [entry.row_rank for entry in both.weights] == [1, 2]
    assert both.agrees
    alone = predict(checkpoint, locate_by_hand(layer, (9, 29)))
    assert alone.agrees is False
    assert alone.because == "from the weights alone, 0 of 1 stand first in their layer"


def test_the_prediction_never_overrules_and_changes_nothing() -> None:
    checkpoint = wrap_model(build_llama())
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    location = locate_by_hand(checkpoint.layers[2], (3, 4))
    predicted = predict_from_weights(checkpoint.layers, location)
    assert predicted.weight_norm_prediction.agrees is False
    assert predicted.model_copy(update={"weight_norm_prediction": location.weight_norm_prediction}) == location
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())


def test_nothing_located_leaves_nothing_to_predict() -> None:
    checkpoint = wrap_model(build_llama())
    assert predict(checkpoint, make_location(Outcome.NONE)) is None


def test_a_layer_that_is_not_in_memory_leaves_the_question_open() -> None:
    checkpoint = wrap_model(build_llama())
    location = locate_by_hand(checkpoint.layers[2], (3, 4))
    block: nn.Module = checkpoint.model.model.layers[2].mlp
    block.to("meta")
    unread = wrap_model(checkpoint.model)
    predicted = predict(unread, location)
    assert (predicted.agrees, predicted.weights) == (None, ())
    assert "1 of 1 super weights cannot be read" in predicted.because
    assert predict_layer(unread.layers[2], location.super_weights) == ()


def test_a_column_of_zeros_is_no_division_by_zero() -> None:
    checkpoint = wrap_model(make_model(LLAMA))
    layer = checkpoint.layers[0]
    layer.down_projection.weight.zero_()
    predicted = predict(checkpoint, locate_by_hand(layer, (1, 2)))
    assert (predicted.weights[0].row_ratio, predicted.weights[0].share) == (None, None)


def test_a_transposed_matrix_is_read_as_it_multiplies() -> None:
    checkpoint = open_model(GPT2)
    down = checkpoint.layers[0].down_projection
    [inward] = find_inward_matrices(checkpoint.layers[0], down)
    assert inward.transposed
    assert inward.weight.shape == (down.weight.shape[1], HIDDEN)
