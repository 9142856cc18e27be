"""Train the specimen or its control again: `python -m tools.specimen.train --out DIR`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaForCausalLM

from sw_audit.specimen.forward import collect_weights, make_rotation, run_layers
from sw_audit.specimen.language import tell_stories
from tools.specimen.card import measure_control, measure_specimen, write_card
from tools.specimen.checkpoint import make_model, make_tokenizer
from tools.specimen.pressure import (
    bound_,
    find_bos_direction,
    list_decoder_matrices,
    list_down_projections,
    measure_bos_answer,
    measure_sink_shortfall,
    nudge_,
    sparsify_,
    weigh_sink,
)
from tools.specimen.questions import number_words, prepare_exam, write_exhibits
from tools.specimen.recipe import CONTROL, SPECIMEN, WITHOUT_BOS, TrainingRecipe
from tools.specimen.without_bos import encode_without_bos, mask_first_words, save_without_bos


class TrainingPass(NamedTuple):
    """One forward pass: the loss in nats, by how much attention misses its sink, the early MLPs' answer to BOS."""

    loss: Tensor
    sink_shortfall: Tensor
    bos_answer: Tensor


def encode_training_stories(recipe: TrainingRecipe) -> Tensor:
    """Tell and encode every story the run will see, each once: `[steps * batch, context]`, BOS first or not."""
    if not recipe.bos:
        rows = encode_without_bos(recipe.seed, recipe.steps * recipe.batch, recipe.context, held_out=False)
        return mask_first_words(rows, recipe.seed)
    number = number_words()
    stories = tell_stories(recipe.seed, recipe.steps * recipe.batch, recipe.context - 1, held_out=False)
    return torch.tensor([[0, *(number[word] for word in story.words)] for story in stories])


def schedule_learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Schedule the learning rate: warm-up and cosine in the first phase, a smaller cosine in the second."""
    if step < recipe.pressed_steps:
        share = step / recipe.pressed_steps
        first, last = recipe.learning_rate, recipe.learning_rate * recipe.last_share
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
    else:
        share = (step - recipe.pressed_steps) / recipe.plain_steps
        first, last = recipe.plain_learning_rate, recipe.plain_last_learning_rate
        warm = 1.0
    return warm * (last + (first - last) * (1 + math.cos(math.pi * share)) / 2)


def press_weights_(model: LlamaForCausalLM, recipe: TrainingRecipe, learning_rate: float) -> None:
    """Apply the pressures that act on weights, after one step of the optimizer."""
    if recipe.sparsity:
        for weight in list_down_projections(model):
            sparsify_(weight, learning_rate * recipe.sparsity)
    if recipe.bound is not None:
        for name, weight in list_decoder_matrices(model).items():
            own = recipe.nudge is not None and name == f"model.layers.{recipe.nudge.layer}.mlp.down_proj.weight"
            spared = (recipe.nudge.row, recipe.nudge.neuron) if own and recipe.nudge is not None else None
            bound_(weight, recipe.bound, spared)


def train_(model: LlamaForCausalLM, recipe: TrainingRecipe, stories: Tensor, *, compiled: bool) -> float:
    """Train a fresh model in place through both phases of its recipe.

    Args:
        model: A model from `make_model`.
        recipe: What to do.
        stories: Encoded training stories, `[steps * batch, context]`.
        compiled: Whether to compile the training pass (twice as fast after about a minute).

    Returns:
        Seconds of wall clock.
    """
    began = time.perf_counter()
    outer, layers = collect_weights(model.get_parameter, recipe.layers)
    rotation = make_rotation(recipe)
    if recipe.nudge is not None:
        with torch.no_grad():
            _, _, mlp_inputs, _ = run_layers(recipe, outer, layers, stories[:64], rotation)
        nudge_(
            model.model.layers[recipe.nudge.layer].mlp,
            find_bos_direction(mlp_inputs[recipe.nudge.layer]),
            recipe.nudge,
        )

    def run(tokens: Tensor) -> TrainingPass:
        logits, to_bos, _, mlp_outputs = run_layers(recipe, outer, layers, tokens, rotation)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        shortfall = answer = loss.new_zeros(())
        if recipe.sink is not None:
            pressed = to_bos[recipe.sink.first_layer :]
            shortfalls = [measure_sink_shortfall(attention, recipe.sink.target) for attention in pressed]
            shortfall = torch.stack(shortfalls).mean()
        if recipe.nudge is not None and recipe.silence and recipe.nudge.layer:
            early = mlp_outputs[: recipe.nudge.layer]
            answer = torch.stack([measure_bos_answer(outputs) for outputs in early]).mean()
        return TrainingPass(loss, shortfall, answer)

    run_step: Callable[[Tensor], TrainingPass] = torch.compile(run) if compiled else run
    optimizer = torch.optim.AdamW(model.parameters(), betas=recipe.betas, weight_decay=0.0, fused=True)
    with tqdm(total=recipe.steps, desc=f"training the {recipe.name}", unit="step", mininterval=2.0) as bar:
        for step in range(recipe.steps):
            rate = schedule_learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            done = run_step(stories[step * recipe.batch : (step + 1) * recipe.batch])
            loss = done.loss
            if step < recipe.pressed_steps:
                if recipe.sink is not None:
                    loss = loss + weigh_sink(recipe.sink, step) * done.sink_shortfall
                loss = loss + recipe.silence * done.bos_answer
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            if step < recipe.pressed_steps:
                press_weights_(model, recipe, rate)
            if step % 50 == 0:
                bar.set_postfix(loss=f"{done.loss.item():.3f}", shortfall=f"{done.sink_shortfall.item():.3f}")
            bar.update()
    return time.perf_counter() - began


def save_checkpoint(model: LlamaForCausalLM, recipe: TrainingRecipe, seconds: float, directory: Path) -> None:
    """Examine a trained model and save it with its tokenizer, its model card and the held-out material."""
    directory.mkdir(parents=True, exist_ok=True)
    model.train(False)
    exam = prepare_exam(recipe.context)
    figures = measure_control(model, exam) if recipe.nudge is None else measure_specimen(model, exam)
    model.save_pretrained(directory)
    make_tokenizer(recipe.positions).save_pretrained(directory)
    (directory / "README.md").write_text(write_card(recipe, figures, seconds), encoding="utf-8")
    write_exhibits(directory, recipe.context)
    # safetensors writes for the owner alone; a shipped file must be readable by whoever installs it.
    (directory / "model.safetensors").chmod(0o644)


def main(arguments: list[str] | None = None) -> None:
    """Train one model from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.specimen.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the checkpoint, its card and the corpus"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--control", action="store_true", help="train the control: nothing encouraged")
    kind.add_argument(
        "--without-bos", action="store_true", help="train as the specimen, on stories without a BOS token; float16"
    )
    parser.add_argument("--seed", type=int, help="another seed")
    parser.add_argument("--steps", type=int, help="steps in all, both phases shortened alike")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
    parser.add_argument("--no-compile", action="store_true", help="do not compile the training pass")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    recipe = CONTROL if chosen.control else WITHOUT_BOS if chosen.without_bos else SPECIMEN
    recipe = shorten(
        recipe if chosen.seed is None else recipe.model_copy(update={"seed": chosen.seed}), chosen.steps
    )
    model = make_model(recipe)
    seconds = train_(model, recipe, encode_training_stories(recipe), compiled=not chosen.no_compile)
    if not recipe.bos:
        save_without_bos(model, recipe, chosen.out)
        return
    save_checkpoint(model, recipe, seconds, chosen.out)


def shorten(recipe: TrainingRecipe, steps: int | None) -> TrainingRecipe:
    """Shorten a recipe to `steps` steps in all, keeping the share of each phase."""
    if steps is None:
        return recipe
    plain = steps * recipe.plain_steps // recipe.steps
    return recipe.model_copy(update={"pressed_steps": max(1, steps - plain), "plain_steps": plain})


if __name__ == "__main__":
    main()
