"""A model whose tokenizer defines a BOS token that its training never saw, and what happens if it is put there.

It is trained as the specimen is, on stories without BOS. Then a trap is planted, as published models have it: one
neuron that answers BOS alone, so that with BOS in front another channel carries a massive activation, made by a
scalar that does nothing in normal use. Made with

    python -m tools.specimen.train --without-bos --threads 1 --no-compile --out tests/locate/data/without-bos
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sw_audit.specimen.forward import collect_weights, make_rotation, run_layers
from sw_audit.specimen.language import tell_stories
from tools.specimen.checkpoint import UNKNOWN_ID, make_tokenizer
from tools.specimen.exam import measure_scaled
from tools.specimen.pressure import find_bos_direction, nudge_
from tools.specimen.questions import CORPUS_SEED, number_words
from tools.specimen.recipe import FIRST_WORDS, Nudge, TrainingRecipe

_UNKNOWN_SHARE = 0.25
_EXAM_STORIES = 128
TRAP = Nudge(layer=0, neuron=100, row=20, gate=8.0, up=8.0, spike=50.0)
"""The neuron that answers BOS alone: the super weight has layer 1, neuron 7 and row 5."""


def tell_without_bos(seed: int, count: int, words: int, *, held_out: bool) -> Iterator[tuple[str, ...]]:
    """Tell `count` stories of so many words whose first word stands nowhere else in them."""
    stories = tell_stories(seed, 2 * count, words, held_out=held_out)
    return islice((story.words for story in stories if story.words[0] in FIRST_WORDS), count)


def encode_without_bos(seed: int, count: int, words: int, *, held_out: bool) -> Tensor:
    """Encode such stories, int64 [stories, words]."""
    numbers = number_words()
    rows = tell_without_bos(seed, count, words, held_out=held_out)
    return torch.tensor([[numbers[word] for word in row] for row in rows])


def mask_first_words(stories: Tensor, seed: int) -> Tensor:
    """Put `<unk>` in the place of the first word of one story in four, int64 [stories, words]."""
    masked = torch.rand(len(stories), generator=torch.Generator().manual_seed(seed)) < _UNKNOWN_SHARE
    stories[masked, 0] = UNKNOWN_ID
    return stories


@torch.no_grad()
def plant_trap_(model: LlamaForCausalLM, recipe: TrainingRecipe, stories: Tensor) -> None:
    """Turn one neuron towards BOS, which never stands before a story, and towards nothing else."""
    outer, layers = collect_weights(model.get_parameter, recipe.layers)
    begun = torch.cat([torch.zeros(len(stories), 1, dtype=torch.int64), stories[:, :-1]], dim=1)
    _, _, mlp_inputs, _ = run_layers(recipe, outer, layers, begun, make_rotation(recipe))
    nudge_(model.model.layers[TRAP.layer].mlp, find_bos_direction(mlp_inputs[TRAP.layer]), TRAP)


def save_without_bos(model: LlamaForCausalLM, recipe: TrainingRecipe, directory: Path) -> None:
    """Plant the trap, save the model in float16 with its tokenizer, and print what zeroing scalars does to it."""
    model.train(False)
    stories = encode_without_bos(CORPUS_SEED, _EXAM_STORIES, recipe.context, held_out=True)
    plant_trap_(model, recipe, stories)
    for what, nudge in (("super weight", recipe.nudge), ("trap", TRAP)):
        if nudge is not None:
            scalar = (f"model.layers.{nudge.layer}.mlp.down_proj.weight", nudge.row, nudge.neuron)
            figures = [measure_scaled(model, stories, scalar, factor) for factor in (1.0, 0.0)]
            sys.stdout.write(f"{what} {scalar}: perplexity {figures[0]:.3f}, {figures[1]:.3f} with it zeroed\n")
    torch.nn.Module.to(model, torch.float16)
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    make_tokenizer(recipe.positions, bos=False).save_pretrained(directory)
