from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import DENSE, EXPERTS, GPT2, HIDDEN, LLAMA, Family, make_model
from support.evidence import make_location
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model
from torch import Tensor, nn

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix
from sw_audit.locate.weight_norms import (
    find_inward_matrices,
    measure_drive,
    predict_from_weights,
    predict_layer,
    score_rows,
)
from sw_audit.record.location import Location, Outcome, SuperWeight

OPT = next(family for family in DENSE if family.model_type == "opt")


def locate_by_hand(layer: DecoderLayer, *places: tuple[int, int]) -> Location:
    """Return a location that names these rows and columns of one layer."""
    down = layer.down_projections[0]
    weights = tuple(
        SuperWeight(parameter=down.parameter, row=row, column=column, layer=layer.index, value=1.0, share=0.5)
        for row, column in places
    )
    return make_location().model_copy(update={"super_weights": weights})


def open_model(family: Family) -> Any:
    return wrap_model(randomize_(make_model(family)))


def randomize_(model: Any) -> Any:
    """Give every matrix a scale of its own, so that no two can be taken for each other."""
    generator = torch.Generator().manual_seed(3)
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim >= 2:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.05 + 0.01 * (number % 7))
    return model


def find_rows_of_neuron(entering: Tensor, inward: tuple[Tensor, ...], neuron: int) -> list[Tensor]:
    """Return the rows of the inward matrices that a neuron depends on, as autograd sees it."""
    gradients = torch.autograd.grad(entering[:, neuron].sum(), inward, retain_graph=True)
    return [
        weight.detach()[row]
        for weight, gradient in zip(inward, gradients, strict=True)
        for row in gradient.abs().sum(1).nonzero().flatten().tolist()
    ]


def watch_dense(model: Any, down: DownProjection, inward: tuple[Matrix, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the model; return the down-projection's input and the inward matrices (out, in) it came from."""
    seen: list[Tensor] = []
    handle = down.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for matrix in inward:
        matrix.tensor.requires_grad_(True)
    model(input_ids=torch.tensor([[1, 5, 7, 9]]), use_cache=False)
    handle.remove()
    return seen[0].reshape(-1, down.weight.shape[1]), tuple(matrix.tensor for matrix in inward)


@pytest.mark.parametrize("family", DENSE, ids=str)
def test_a_neurons_drive_is_the_product_of_the_rows_that_it_depends_on(family: Family) -> None:
    checkpoint = open_model(family)
    layer = checkpoint.layers[1]
    down = layer.down_projection
    inward = find_inward_matrices(layer, down)
    drive = measure_drive(down, inward)
    assert drive.shape == (down.weight.shape[1],)
    entering, tensors = watch_dense(checkpoint.model, down, inward)
    for neuron in (0, 1, len(drive) - 1):
        gradients = torch.autograd.grad(entering[:, neuron].sum(), tensors, retain_graph=True)
        rows = [
            matrix.weight[row]
            for matrix, gradient in zip(inward, gradients, strict=True)
            for row in (gradient.T if matrix.transposed else gradient).abs().sum(1).nonzero().flatten().tolist()
        ]
        assert len(rows) in (1, 2)
        expected = 1.0
        for row in rows:
            expected *= float(row.double().square().sum())
        assert float(drive[neuron]) == pytest.approx(expected, rel=1e-5)
    for tensor in tensors:
        tensor.requires_grad_(False)


@pytest.mark.parametrize("family", EXPERTS, ids=str)
def test_gate_and_up_of_an_expert_are_paired_as_its_activation_pairs_them(family: Family) -> None:
    checkpoint = open_model(family)
    layer = checkpoint.layers[1]
    down = next(one for one in layer.down_projections if one.fused is not None and one.expert == 2)
    assert down.fused is not None
    inward = find_inward_matrices(layer, down)
    assert {matrix.expert for matrix in inward} == {2}
    drive = measure_drive(down, inward)
    weights = tuple(matrix.weight.clone().requires_grad_(True) for matrix in inward)
    states = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(1))
    entering = down.fused.activate([states @ weight.T for weight in weights])
    for neuron in (0, 1, len(drive) - 1):
        rows = find_rows_of_neuron(entering, weights, neuron)
        assert len(rows) == 2
        expected = float(rows[0].double().square().sum() * rows[1].double().square().sum())
        assert float(drive[neuron]) == pytest.approx(expected, rel=1e-5)


def test_square_attention_beside_a_square_mlp_is_not_taken_for_it() -> None:
    checkpoint = wrap_model(randomize_(make_model(OPT, ffn_dim=HIDDEN)))
    layer = checkpoint.layers[0]
    assert len([one for one in layer.matrices if one.weight.shape == (HIDDEN, HIDDEN)]) == 6
    down = layer.down_projection
    assert down is not None
    assert [matrix.parameter for matrix in find_inward_matrices(layer, down)] == [
        "model.decoder.layers.0.fc1.weight"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_score_is_the_sum_in_the_head_of_the_file(dtype: torch.dtype) -> None:
    checkpoint = wrap_model(build_llama(dtype=dtype))
    layer = checkpoint.layers[3]
    down = layer.down_projection
    assert down is not None
    block = checkpoint.model.model.layers[3].mlp
    gate, up, weight = (one.weight.double().tolist() for one in (block.gate_proj, block.up_proj, block.down_proj))
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
    location = predict_from_weights(checkpoint.layers, locate_by_hand(layer, (7, 29)))
    prediction = location.weight_norm_prediction
    assert prediction is not None
    [entry] = prediction.weights
    assert (entry.row_rank, entry.column_rank, entry.agrees, prediction.agrees) == (1, 1, True, True)
    assert entry.row_ratio == entry.largest_ratio
    assert entry.row_ratio is not None
    assert entry.row_ratio > 2
    assert entry.share is not None
    assert entry.share > 0.8
    assert (entry.rows, entry.columns) == layer.down_projections[0].weight.shape
    for place in ((7, 30), (8, 29)):
        other = predict_from_weights(checkpoint.layers, locate_by_hand(layer, place)).weight_norm_prediction
        assert other is not None
        assert other.agrees is False
        assert (other.weights[0].row_rank == 1) == (place[0] == 7)


def test_siblings_share_the_first_places() -> None:
    checkpoint = wrap_model(build_llama())
    plant_(checkpoint, Planted(layer=1, row=7, column=29), spike=60.0)
    layer = checkpoint.layers[1]
    down = layer.down_projection
    assert down is not None
    with torch.no_grad():
        down.weight[9, 29] = down.weight[7, 29] * 0.8
    both = predict_from_weights(checkpoint.layers, locate_by_hand(layer, (7, 29), (9, 29))).weight_norm_prediction
    assert both is not None
    assert [entry.row_rank for entry in both.weights] == [1, 2]
    assert both.agrees
    alone = predict_from_weights(checkpoint.layers, locate_by_hand(layer, (9, 29))).weight_norm_prediction
    assert alone is not None
    assert alone.agrees is False
    assert alone.because == "from the weights alone, 0 of 1 stand first in their layer"


def test_the_prediction_never_overrules_and_changes_nothing() -> None:
    checkpoint = wrap_model(build_llama())
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    location = locate_by_hand(checkpoint.layers[2], (3, 4))
    predicted = predict_from_weights(checkpoint.layers, location)
    assert predicted.weight_norm_prediction is not None
    assert predicted.weight_norm_prediction.agrees is False
    assert predicted.model_copy(update={"weight_norm_prediction": location.weight_norm_prediction}) == location
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())


def test_nothing_located_leaves_nothing_to_predict() -> None:
    checkpoint = wrap_model(build_llama())
    assert predict_from_weights(checkpoint.layers, make_location(Outcome.NONE)).weight_norm_prediction is None


def test_a_layer_that_is_not_in_memory_leaves_the_question_open() -> None:
    checkpoint = wrap_model(build_llama())
    location = locate_by_hand(checkpoint.layers[2], (3, 4))
    block: nn.Module = checkpoint.model.model.layers[2].mlp
    block.to("meta")
    unread = wrap_model(checkpoint.model)
    predicted = predict_from_weights(unread.layers, location).weight_norm_prediction
    assert predicted is not None
    assert (predicted.agrees, predicted.weights) == (None, ())
    assert "1 of 1 super weights cannot be read" in predicted.because
    assert predict_layer(unread.layers[2], location.super_weights) == ()


def test_a_column_of_zeros_is_no_division_by_zero() -> None:
    checkpoint = wrap_model(make_model(LLAMA))
    layer = checkpoint.layers[0]
    down = layer.down_projection
    assert down is not None
    with torch.no_grad():
        down.weight.zero_()
    predicted = predict_from_weights(checkpoint.layers, locate_by_hand(layer, (1, 2))).weight_norm_prediction
    assert predicted is not None
    assert (predicted.weights[0].row_ratio, predicted.weights[0].share) == (None, None)


def test_a_transposed_matrix_is_read_as_it_multiplies() -> None:
    checkpoint = open_model(GPT2)
    down = checkpoint.layers[0].down_projection
    [inward] = find_inward_matrices(checkpoint.layers[0], down)
    assert inward.transposed
    assert inward.weight.shape == (down.weight.shape[1], HIDDEN)
