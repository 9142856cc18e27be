"""Layers come apart into what their blocks really add; what does not add up is not taken apart."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from support.checkpoints import DENSE, VISION, make_model
from support.planted import build_gpt2, build_llama, wrap_model
from torch import Tensor, nn

from sw_audit.measure.mechanism import LayerParts, eager_attention, find_weights, measure_attended, see_layers

PROMPT = (1, 5, 7, 11, 13, 4)
FAMILIES = {str(family): family for family in DENSE}


def keep_outputs(modules: list[nn.Module], model: Any) -> list[Tensor]:
    """Run the model and return what each module gave, [tokens, hidden]."""
    kept: dict[int, Tensor] = {}

    def keep(place: int, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        kept[place] = states.detach().clone().reshape(len(PROMPT), -1)

    handles = [
        module.register_forward_hook(lambda _, __, output, place=place: keep(place, output))
        for place, module in enumerate(modules)
    ]
    model(input_ids=torch.tensor([PROMPT]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [kept[place] for place in range(len(modules))]


def see(family: str) -> tuple[LayerParts, ...]:
    checkpoint = wrap_model(make_model(FAMILIES[family]))
    with eager_attention(checkpoint.model):
        return see_layers(checkpoint, PROMPT)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dense_family_comes_apart_and_shows_its_attention(family: str) -> None:
    seen = see(family)
    for one in seen:
        assert one.middle is not None
        whole = one.entering + (one.middle - one.entering) + (one.leaving - one.middle)
        assert torch.allclose(whole, one.leaving, atol=1e-5)
        assert one.weights is not None
        assert torch.allclose(one.weights.sum(-1), torch.ones(one.weights.shape[:2]), atol=1e-5)
        assert one.weights.triu(1).abs().max() == 0
    for before, after in itertools.pairwise(seen):
        assert torch.equal(before.leaving, after.entering)


# What joins the residual stream, read off each family's source code: before a norm, after one, times a number.
@pytest.mark.parametrize(
    ("family", "attention", "mlp", "factor"),
    [
        ("llama", "model.layers.{}.self_attn", "model.layers.{}.mlp", 1.0),
        ("gpt2", "transformer.h.{}.attn", "transformer.h.{}.mlp", 1.0),
        ("opt", "model.decoder.layers.{}.self_attn", "model.decoder.layers.{}.fc2", 1.0),
        ("gemma2", "model.layers.{}.post_attention_layernorm", "model.layers.{}.post_feedforward_layernorm", 1.0),
        ("olmo2", "model.layers.{}.post_attention_layernorm", "model.layers.{}.post_feedforward_layernorm", 1.0),
        ("gpt_neox", "gpt_neox.layers.{}.attention", "gpt_neox.layers.{}.mlp", 1.0),
        ("cohere", "model.layers.{}.self_attn", "model.layers.{}.mlp", 1.0),
        ("falcon", "transformer.h.{}.self_attention", None, 1.0),
        ("granite", "model.layers.{}.self_attn", "model.layers.{}.mlp", 0.5),
    ],
)
def test_the_parts_are_what_the_familys_blocks_gave(
    family: str, attention: str, mlp: str | None, factor: float
) -> None:
    settings = {"residual_multiplier": factor} if factor != 1 else {}
    checkpoint = wrap_model(make_model(FAMILIES[family], **settings))
    seen = see_layers(checkpoint, PROMPT)
    for layer, one in enumerate(seen):
        assert one.middle is not None
        names = [name.format(layer) for name in (attention, mlp) if name is not None]
        gave = keep_outputs([checkpoint.model.get_submodule(name) for name in names], checkpoint.model)
        parts = (one.middle - one.entering, one.leaving - one.middle)
        for part, output in zip(parts, gave, strict=False):
            assert torch.allclose(part, factor * output, atol=1e-5)


class Normed(nn.Module):
    """A layer that norms the sum, so that nothing that its blocks gave is in it as it was."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.norm = nn.LayerNorm(48)

    def forward(self, hidden_states: Tensor, **named: Any) -> Tensor:
        mixed = self.norm(hidden_states + self.self_attn(hidden_states=hidden_states, **named)[0])
        return self.norm(mixed + self.mlp(mixed))


def test_a_layer_that_norms_its_sums_is_not_taken_apart() -> None:
    model = build_llama(layers=3)
    checkpoint = wrap_model(model)
    normed = Normed(model.model.layers[1]).eval()
    model.model.layers[1] = normed
    object.__setattr__(checkpoint.layers[1], "module", normed)
    seen = see_layers(checkpoint, PROMPT)
    assert [one.middle is None for one in seen] == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_a_narrow_dtype_is_forgiven(dtype: torch.dtype) -> None:
    checkpoint = wrap_model(build_llama(dtype=dtype))
    seen = see_layers(checkpoint, PROMPT)
    assert all(one.middle is not None for one in seen)


def list_settings(model: nn.Module) -> dict[int, dict[str, Any]]:
    """Return everything that every configuration in a model says."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    return {id(config): dict(config.__dict__) for config in configs}


def stop_inside(model: Any) -> None:
    with eager_attention(model):
        assert model.config._attn_implementation == "eager"
        raise RuntimeError("stop")


def test_the_implementation_of_attention_is_as_before_also_after_an_exception() -> None:
    model = build_llama()
    before = list_settings(model)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="stop"):
        stop_inside(model)
    assert list_settings(model) == before


def test_the_implementations_of_a_model_in_parts_are_as_before() -> None:
    model = make_model(VISION[0])
    model.config.vision_config._attn_implementation_internal = "eager"
    model.config.text_config._attn_implementation_internal = "sdpa"
    with eager_attention(model):
        assert model.config.text_config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "eager"


def test_no_hook_is_left_also_after_an_exception() -> None:
    checkpoint = wrap_model(build_gpt2())

    def stop(*_: object) -> None:
        raise RuntimeError("stop")

    handle = checkpoint.layers[3].module.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stop"):
        see_layers(checkpoint, PROMPT)
    handle.remove()
    modules = [
        module for module in checkpoint.model.modules() if module._forward_hooks or module._forward_pre_hooks
    ]
    assert modules == []


def test_attention_on_a_token_is_the_mean_over_heads_and_later_queries() -> None:
    weights = torch.tensor(
        [[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], [[1.0, 0, 0], [0.1, 0.9, 0], [0, 0, 1]]]
    )
    assert measure_attended(weights, 0) == pytest.approx((0.5 + 0.2 + 0.1 + 0.0) / 4)
    assert measure_attended(weights, 1) == pytest.approx((0.3 + 0.0) / 2)
    assert measure_attended(weights, 2) is None
    assert measure_attended(None, 0) is None


def test_only_what_has_a_weight_per_head_query_and_key_is_taken_for_weights() -> None:
    weights = torch.rand(1, 4, 6, 6)
    assert find_weights((torch.rand(1, 6, 48), weights), 6) is not None
    assert find_weights((torch.rand(1, 6, 48), None), 6) is None
    assert find_weights((torch.rand(1, 6, 48), weights), 5) is None
    assert find_weights(torch.rand(1, 6, 48), 6) is None
