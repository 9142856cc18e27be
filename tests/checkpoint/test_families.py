from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import (
    DEEPSEEK,
    DENSE,
    GPT2,
    HIDDEN,
    LAYERS,
    LLAMA,
    LLAMA_LIKE,
    VISION,
    VOCABULARY,
    Family,
    make_model,
)
from transformers import AutoConfig, AutoModel

from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.errors import CheckpointError

families = pytest.mark.parametrize("family", [*DENSE, *VISION], ids=str)


@families
def test_each_layer_of_each_dense_family_has_its_matrices_once_and_its_down_projection(family: Family) -> None:
    model = make_model(family)
    layers = find_decoder_layers(model)
    assert [layer.index for layer in layers] == list(range(LAYERS))
    parameters = dict(model.named_parameters())
    for layer in layers:
        down = layer.down_projection
        assert down is not None
        assert down.layer == layer.index
        assert down.parameter == family.projection.format(layer.index) + ".weight"
        assert down.parameter.startswith(layer.name + ".")
        assert down.module is model.get_submodule(down.parameter.removesuffix(".weight"))
        assert layer.module is model.get_submodule(layer.name)
        assert down.tensor is parameters[down.parameter]
        assert down.transposed is family.transposed
        assert tuple(down.weight.shape) == (HIDDEN, family.intermediate)
        # By hand: everything of two dimensions below the layer that is no norm and no embedding.
        expected = {f"{layer.name}.{name}" for name, weight in layer.module.named_parameters() if weight.ndim == 2}
        assert {matrix.parameter for matrix in layer.matrices} == expected
        assert len(layer.matrices) == len(expected)
        assert down.parameter in expected
        # Writing into the view changes the model.
        assert down.weight.untyped_storage().data_ptr() == down.tensor.untyped_storage().data_ptr()
        down.weight[3, 5] = 123.0
        assert (down.tensor[5, 3] if family.transposed else down.tensor[3, 5]).item() == 123.0


@families
def test_the_matrix_by_hand_gives_what_the_module_computes(family: Family) -> None:
    model = make_model(family)
    down = find_decoder_layers(model)[0].down_projection
    assert down is not None
    if down.bias is not None:
        down.bias.normal_()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x, y = inputs[0].reshape(-1, family.intermediate), output.reshape(-1, HIDDEN)
        # Falcon goes on adding into the output.
        seen.append((x[-1].clone(), y[-1].clone()))

    handle = down.module.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.tensor([[1, 4, 5, 6]]))
    handle.remove()
    [(x, y)] = seen
    bias = torch.zeros(HIDDEN) if down.bias is None else down.bias
    by_hand = torch.stack([(down.weight[row] * x).sum() for row in range(HIDDEN)]) + bias
    torch.testing.assert_close(by_hand, y)
    assert y.abs().max() > 0


@pytest.mark.parametrize("family", DEEPSEEK, ids=str)
def test_only_the_dense_layers_of_a_mixed_model_have_a_single_down_projection(family: Family) -> None:
    layers = find_decoder_layers(make_model(family))
    first = layers[0].down_projection
    assert first is not None
    assert layers[0].down_projections == (first,)
    assert first.parameter == "model.layers.0.mlp.down_proj.weight"
    assert [layer.down_projection for layer in layers[1:]] == [None] * (LAYERS - 1)
    require_down_projections(layers, "some/model")


def test_a_model_without_an_mlp_is_refused() -> None:
    sizes = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "vocab_size": VOCABULARY}
    mamba = Family("mamba2", settings={"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, **sizes})
    layers = find_decoder_layers(make_model(mamba))
    assert [layer.name for layer in layers] == [f"backbone.layers.{index}" for index in range(LAYERS)]
    with pytest.raises(CheckpointError, match="no layer has an MLP") as caught:
        require_down_projections(layers, "mamba")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "kind"), [("bert", "encoder-only"), ("roberta", "encoder-only"), ("t5", "encoder-decoder")]
)
def test_a_model_that_is_no_decoder_is_refused(model_type: str, kind: str) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type))  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match=kind) as caught:
        find_decoder_layers(model)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_told_to_decode_is_a_decoder() -> None:
    plain = {key: value for key, value in LLAMA_LIKE.items() if key not in ("num_key_value_heads", "head_dim")}
    bert = Family("bert", settings={**plain, "is_decoder": True})
    downs = [layer.down_projection for layer in find_decoder_layers(make_model(bert))]
    assert [down and tuple(down.weight.shape) for down in downs] == [(HIDDEN, 40)] * LAYERS
    assert downs[1] is not None
    assert downs[1].parameter == "bert.encoder.layer.1.output.dense.weight"


def test_a_model_on_the_meta_device_is_read_as_well() -> None:
    with torch.device("meta"):
        layers = find_decoder_layers(make_model(GPT2))
    assert [len(layer.matrices) for layer in layers] == [4] * LAYERS


def test_layers_that_share_their_weights_list_them_once() -> None:
    model = make_model(LLAMA)
    shared = model.model.layers[0].mlp.down_proj.weight
    model.model.layers[2].mlp.down_proj.weight = shared
    first, _, last = find_decoder_layers(model)
    assert shared is first.matrices[-1].tensor
    assert all(matrix.tensor is not shared for matrix in last.matrices)
    assert last.down_projection is not None
    assert last.down_projection.tensor is shared
