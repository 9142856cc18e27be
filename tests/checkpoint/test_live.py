"""A live model is lent: whatever is done to it meanwhile, it is bit for bit as before, and no weight is copied."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from support.checkpoints import LLAMA, make_model, make_tokenizer
from torch import nn
from transformers import GenerationConfig

from sw_audit.checkpoint.live import name_live_model, open_live_model
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy


@pytest.fixture
def model() -> Any:
    """A model in the middle of being trained: a part is frozen, another evaluates, gradients are there."""
    model = make_model(LLAMA).train()
    model.lm_head.eval()
    model.get_input_embeddings().weight.requires_grad_(False)
    model.model.norm.register_forward_hook(lambda *_: None)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    return model


def describe(model: Any) -> dict[str, Any]:
    """Describe everything that an audit could change, by what it is and by what it holds."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    held = {
        name: (id(one), one.data_ptr(), one.requires_grad, one._version, one.tolist(), one.grad is not None)
        for name, one in tensors.items()
    }
    modules = {
        name: {key: dict(value) if isinstance(value, dict) else value for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }
    chance = (random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist())
    settings = (copy.deepcopy(model.config.to_dict()), model.generation_config.to_dict())
    return {"tensors": held, "modules": modules, "chance": chance, "settings": settings}


def disturb(model: Any) -> None:
    """Do to a model what libraries do, but for changing weights for good."""
    model.generation_config = GenerationConfig(do_sample=True)
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq * 2
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda *_: None)
    layer.forward = lambda hidden, **_: hidden
    layer.mlp.seen = 3
    del layer.self_attn.scaling
    model.requires_grad_(requires_grad=False)
    weight = layer.mlp.down_proj.weight
    before = weight.detach().clone()
    weight.detach().zero_().copy_(before)
    for draw in (random.random, numpy.random.random, lambda: torch.rand(1)):
        draw()


@pytest.mark.parametrize("end", [None, ZeroDivisionError, KeyboardInterrupt])
def test_everything_is_as_it_was_also_after_an_exception(model: Any, end: type[BaseException] | None) -> None:
    before = describe(model)

    def lend() -> None:
        with open_live_model(model, make_tokenizer()) as checkpoint:
            assert not any(module.training for module in model.modules())
            disturb(checkpoint.model)
            assert describe(model) != before
            if end is not None:
                raise end

    if end is None:
        lend()
    else:
        with pytest.raises(end):
            lend()
    assert describe(model) == before


def test_its_matrices_are_the_models_own(model: Any) -> None:
    with open_live_model(model, make_tokenizer(), ModelPolicy(source="x", id="mine")) as checkpoint:
        assert checkpoint.model is model
        own = {parameter.data_ptr() for parameter in model.parameters()}
        matrices = [matrix for layer in checkpoint.layers for matrix in layer.matrices]
        assert len(matrices) == 7 * len(checkpoint.layers)
        assert {matrix.weight.data_ptr() for matrix in matrices} <= own
    assert (checkpoint.identity.id, checkpoint.identity.in_place, checkpoint.identity.digest) == ("mine", True, "")


def test_a_backward_pass_that_was_begun_before_can_still_be_ended(model: Any) -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    gradients = []
    for lent in (False, True):
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        if lent:
            with open_live_model(model, make_tokenizer()):
                disturb(model)
        loss.backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "state",
    [torch.no_grad, torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode],
)
def test_it_computes_plainly_whatever_the_caller_is_in_the_middle_of(model: Any, state: Callable[[], Any]) -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
    with state():
        before = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled())
        with open_live_model(model, make_tokenizer()) as checkpoint:
            logits = checkpoint.model(input_ids=ids).logits
        after = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled())
    assert before == after
    assert torch.equal(logits, expected)
    assert (logits.requires_grad, logits.is_inference()) == (False, False)


def test_what_torch_puts_around_a_model_is_looked_through(model: Any) -> None:
    compiled = torch.compile(nn.DataParallel(model))
    model.model.layers[0].compile()
    given = vars(model.model.layers[0])["_compiled_call_impl"]
    with open_live_model(compiled, make_tokenizer()) as checkpoint:
        assert checkpoint.model is model
        assert checkpoint.layers[0].module._compiled_call_impl is None
    assert model.model.layers[0]._compiled_call_impl is given


def spread_(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(torch.empty(0))


def empty_(model: Any) -> None:
    model.model.norm.to("meta")


def infer_(model: Any) -> None:
    with torch.inference_mode():
        model.model.norm.weight = nn.Parameter(torch.ones(model.config.hidden_size))


@pytest.mark.parametrize(
    ("spoil_", "said"),
    [
        (spread_, "spread over several processes, none of which holds them all; audit the checkpoints"),
        (empty_, "model.norm.weight has no data; load the model's weights first"),
        (infer_, "model.norm.weight was made under torch.inference_mode, and cannot be written elsewhere; load"),
    ],
)
def test_weights_that_are_not_there_to_be_written_are_told_in_one_line(
    model: Any, spoil_: Callable[[Any], None], said: str
) -> None:
    spoil_(model)
    with pytest.raises(CheckpointError, match=said) as caught, open_live_model(model, make_tokenizer()):
        pytest.fail("it was lent")
    assert str(caught.value).startswith("model 'model': ")


@pytest.mark.parametrize(
    ("make", "tokenizer", "said"),
    [
        (
            lambda: nn.Linear(2, 2),
            make_tokenizer(),
            "it is a torch.nn.modules.linear.Linear; give a model of transf",
        ),
        (lambda: make_model(LLAMA), None, "it has no tokenizer; give the model's own tokenizer"),
        (lambda: make_model(LLAMA), "gpt2", "its tokenizer is a str; give the model's own tokenizer"),
        (lambda: make_model(LLAMA, vocab_size=8), make_tokenizer(), "tokens, its embedding only 8 rows"),
    ],
)
def test_what_is_no_model_with_its_tokenizer_is_told_in_one_line(
    make: Callable[[], Any], tokenizer: Any, said: str
) -> None:
    with pytest.raises(CheckpointError, match=said), open_live_model(make(), tokenizer):
        pytest.fail("it was lent")


def test_a_model_that_no_policy_names_is_called_by_what_it_was_loaded_from() -> None:
    model = make_model(LLAMA)
    assert (name_live_model(model).id, name_live_model(model).source) == ("LlamaForCausalLM",) * 2
    model.name_or_path = "someone/llama-small"
    # The source is looked up in the index of what others published, and it may have been trained since.
    assert (name_live_model(model).id, name_live_model(model).source) == ("llama-small", "LlamaForCausalLM")
