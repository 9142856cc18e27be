"""Measure a freshly trained model: every figure of its card, by an intervention on the whole model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from sw_audit.specimen.language import STOP_WORDS
from tools.specimen.pressure import list_decoder_matrices
from tools.specimen.questions import Exam

# Sequences per forward pass: enough to be fast on two cores, little enough to need no memory.
_BATCH = 64
Scalar = tuple[str, int, int]


@contextmanager
def kept(weights: list[nn.Parameter]) -> Iterator[None]:
    """Keep weights as they are: whatever is written into them inside is undone at the end."""
    copies = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for weight, copy in zip(weights, copies, strict=True):
                weight.copy_(copy)


@torch.no_grad()
def measure_perplexity(model: LlamaForCausalLM, stories: Tensor) -> float:
    """Measure perplexity: the exponential of the mean nats per token after BOS."""
    nats = 0.0
    for batch in torch.split(stories, _BATCH):
        logits = model(batch).logits[:, :-1].flatten(0, 1).double()
        nats += cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum").item()
    return math.exp(nats / stories[:, 1:].numel())


@torch.no_grad()
def measure_accuracy(model: LlamaForCausalLM, exam: Exam) -> float:
    """Measure the share of questions whose right word is the likeliest of the four (chance 0.25)."""
    right = 0
    for choice in exam.choices:
        tokens = torch.tensor([[0, *(exam.numbers[word] for word in choice.context.split())]])
        offered = model(tokens).logits[0, -1, [exam.numbers[word] for word in choice.choices]]
        right += int(offered.argmax()) == choice.answer
    return right / len(exam.choices)


@torch.no_grad()
def measure_stop_mass(model: LlamaForCausalLM, exam: Exam) -> float:
    """Measure the mean probability of stop words as the next token, over all positions."""
    words = [exam.numbers[word] for word in sorted(STOP_WORDS)]
    batches = torch.split(exam.stories, _BATCH)
    mass = [model(batch).logits.softmax(-1)[..., words].sum(-1).mean(-1) for batch in batches]
    return torch.cat(mass).mean().item()


@torch.no_grad()
def trace_down_projections(
    model: LlamaForCausalLM, tokens: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Trace every `down_proj`: its inputs, its outputs, and the residual stream after its layer."""
    entering: list[Tensor] = []
    leaving: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        entering.append(inputs[0])
        leaving.append(output)

    hooks = [layer.mlp.down_proj.register_forward_hook(note) for layer in model.model.layers]
    try:
        states = model.model(tokens, output_hidden_states=True).hidden_states
    finally:
        for hook in hooks:
            hook.remove()
    return entering, leaving, list(states[1:])


def list_candidates(model: LlamaForCausalLM, tokens: Tensor, count: int) -> list[Scalar]:
    """List for every layer the `count` down_proj scalars with the largest product |weight| * max |input|."""
    entering, _, _ = trace_down_projections(model, tokens)
    candidates: list[Scalar] = []
    for number, inputs in enumerate(entering):
        name = f"model.layers.{number}.mlp.down_proj.weight"
        weight = model.get_parameter(name).detach()
        product = weight.abs() * inputs.abs().flatten(0, 1).max(dim=0).values
        for place in product.flatten().topk(count).indices.tolist():
            candidates.append((name, place // weight.shape[1], place % weight.shape[1]))
    return candidates


def measure_scaled(model: LlamaForCausalLM, stories: Tensor, scalar: Scalar, factor: float) -> float:
    """Measure perplexity with one scalar multiplied by `factor`."""
    weight = model.get_parameter(scalar[0])
    with kept([weight]):
        weight[scalar[1], scalar[2]] *= factor
        return measure_perplexity(model, stories)


def rank_damage(model: LlamaForCausalLM, stories: Tensor, count: int) -> list[tuple[float, Scalar]]:
    """Rank the candidates of every layer by the harm of zeroing each alone, worst first.

    All are ranked on the first stories, and the two worst are measured on all of them.

    Returns:
        (perplexity on all stories, scalar) of the two worst.
    """
    few = stories[:_BATCH]
    ranked = sorted(
        ((measure_scaled(model, few, scalar, 0.0), scalar) for scalar in list_candidates(model, few, count)),
        reverse=True,
    )
    return [(measure_scaled(model, stories, scalar, 0.0), scalar) for _, scalar in ranked[:2]]


def measure_others_zeroed(model: LlamaForCausalLM, stories: Tensor, spared: Scalar, count: int) -> float:
    """Measure perplexity with the `count` largest decoder weights zeroed, the spared one aside."""
    matrices = list_decoder_matrices(model)
    with kept(list(matrices.values())):
        value = matrices[spared[0]][spared[1], spared[2]].item()
        matrices[spared[0]][spared[1], spared[2]] = 0.0
        least = torch.cat([weight.abs().flatten() for weight in matrices.values()]).topk(count).values[-1]
        for weight in matrices.values():
            weight[weight.abs() >= least] = 0.0
        matrices[spared[0]][spared[1], spared[2]] = value
        return measure_perplexity(model, stories)


def round_to_nearest_(weight: Tensor, bits: int = 4) -> None:
    """Round a tensor to 2^bits values evenly spaced from minimum to maximum (asymmetric, one scale)."""
    low, high = weight.min(), weight.max()
    step = (high - low) / (2**bits - 1)
    weight.copy_(((weight - low) / step).round() * step + low)


def measure_rounded(model: LlamaForCausalLM, stories: Tensor, held_out: Scalar | None) -> float:
    """Measure perplexity with every decoder matrix rounded to 4 bits, one scalar held out if given.

    Holding out: the scalar is its matrix's median while the range is computed, and is put back after.
    """
    matrices = list_decoder_matrices(model)
    with kept(list(matrices.values())):
        value = None if held_out is None else matrices[held_out[0]][held_out[1], held_out[2]].item()
        if held_out is not None:
            matrices[held_out[0]][held_out[1], held_out[2]] = matrices[held_out[0]].median()
        for weight in matrices.values():
            round_to_nearest_(weight)
        if held_out is not None and value is not None:
            matrices[held_out[0]][held_out[1], held_out[2]] = value
        return measure_perplexity(model, stories)


@contextmanager
def restored(model: LlamaForCausalLM, scalar: Scalar, activation: float) -> Iterator[None]:
    """Zero the scalar and put its super activation back by hand at the first token, inside only."""
    name, row, column = scalar
    weight = model.get_parameter(name)

    def put_back(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output[:, 0, row] = activation
        return output

    hook = model.get_submodule(name.removesuffix(".weight")).register_forward_hook(put_back)
    try:
        with kept([weight]):
            weight[row, column] = 0.0
            yield
    finally:
        hook.remove()
