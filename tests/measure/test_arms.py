"""Every arm gets its measurement, and what several arms do alike is run once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.engine import make_arm, make_windows
from support.planted import Planted, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.choices import ChoiceItem
from sw_audit.measure.arms import measure_arms
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Scale
from sw_audit.testing.families import Numerals

LAYER = 2


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    opened = wrap_model(build_llama(layers=4), Numerals(1))
    plant_(opened, Planted(layer=LAYER, row=7, column=9))
    return opened


def zero(checkpoint: Checkpoint, name: str, column: int) -> Arm:
    down = checkpoint.layers[LAYER].down_projection
    group = AddressGroup(parameter=down.parameter, rows=(7,), columns=(column,))
    return make_arm(Scale(addresses=(group,), factor=0.0), label=name)


def count_runs(checkpoint: Checkpoint, arms: list[Arm]) -> int:
    """Count the calls of the last layer by hand: one per arm that is run apart."""
    calls = []
    handle = checkpoint.layers[-1].module.register_forward_hook(lambda *_: calls.append(1))
    measure_arms(checkpoint, arms, make_windows(4, 3, 9), protocol="p")
    handle.remove()
    return len(calls)


def test_arms_that_do_the_same_are_run_once_and_have_the_same_figures(checkpoint: Checkpoint) -> None:
    pruned, same, other = (zero(checkpoint, *place) for place in (("pruned", 9), ("same", 9), ("other", 8)))
    arms = [BASELINE, pruned, other, same]
    measured = measure_arms(checkpoint, arms, make_windows(4, 3, 9), protocol="p")
    assert [measurement.arm for measurement in measured] == arms
    first, second = measured[1], measured[3]
    assert second.model_copy(update={"arm": pruned, "seconds": first.seconds}) == first
    assert second.seconds == 0 < first.seconds
    assert first.loss != measured[2].loss != measured[0].loss
    assert count_runs(checkpoint, arms) == count_runs(checkpoint, arms[:3])
    assert count_runs(checkpoint, arms) > count_runs(checkpoint, arms[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_within_little_memory_every_figure_is_the_same(dtype: torch.dtype) -> None:
    opened = wrap_model(build_llama(layers=4).to(dtype), Numerals(1))
    plant_(opened, Planted(layer=LAYER, row=7, column=9))
    items = tuple(ChoiceItem(context="5 9 12", choices=("17", "18"), answer=answer) for answer in (0, 1))
    arms = [BASELINE, zero(opened, "pruned", 9), zero(opened, "other", 8)]
    read: list[int] = []
    opened.model.get_output_embeddings().register_forward_hook(lambda *_: read.append(1))
    measured, counts = [], []
    for memory in (None, 100_000):
        read.clear()
        given = replace(opened, memory=memory)
        found = measure_arms(
            given, arms, make_windows(9, 3, 40), protocol="p", choices=items, stop_words=torch.tensor([4, 9])
        )
        measured.append([one.model_copy(update={"seconds": 0.0}) for one in found])
        counts.append(len(read))
    assert measured[0] == measured[1]
    assert counts[1] > counts[0]


def test_an_arm_that_answers_items_is_not_confused_with_one_that_does_not(checkpoint: Checkpoint) -> None:
    # One question with either answer called right: whoever answers at all is right once.
    items = tuple(ChoiceItem(context="5 9 12", choices=("17", "18"), answer=answer) for answer in (0, 1))
    arms = [BASELINE, zero(checkpoint, "same", 9), zero(checkpoint, "pruned", 9)]
    measured = measure_arms(
        checkpoint, arms, make_windows(4, 3, 9), protocol="p", choices=items, choice_arms=(arms[2].purpose,)
    )
    assert [measurement.choices and sum(measurement.choices.correct) for measurement in measured] == [1, None, 1]
    assert measured[1].loss == measured[2].loss


def test_what_enters_and_leaves_the_down_projections_is_measured_in_the_model_as_it_is(
    checkpoint: Checkpoint,
) -> None:
    windows = make_windows(4, 3, 9)
    seen: list[tuple[float, float]] = []
    handles = [
        layer.down_projections[0].module.register_forward_hook(
            lambda _, inputs, output: seen.append((float(inputs[0].abs().max()), float(output.abs().max())))
        )
        for layer in checkpoint.layers
    ]
    with torch.no_grad():
        checkpoint.model(input_ids=windows.token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    plain, zeroed = measure_arms(checkpoint, [BASELINE, zero(checkpoint, "pruned", 9)], windows, protocol="p")
    assert plain.down_inputs == pytest.approx([entering for entering, _ in seen])
    assert plain.down_outputs == pytest.approx([leaving for _, leaving in seen])
    assert zeroed.down_inputs == zeroed.down_outputs == ()
