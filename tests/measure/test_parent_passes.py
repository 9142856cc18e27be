"""One parent beside two descendants: what is recalled of it is what it gives, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.engine import copy_of

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.measure.descent import SharedText, compare_on_text, share_text
from sw_audit.measure.parent_passes import ParentPasses
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.record.descent import ComparedText, LayerError
from sw_audit.record.measurement import Measurement
from sw_audit.specimen import specimen_path


@pytest.fixture(scope="module")
def parent() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture(scope="module")
def descendants(parent: Checkpoint) -> list[Checkpoint]:
    changed = [copy_of(parent), copy_of(parent)]
    with torch.no_grad():
        for number, descendant in enumerate(changed):
            descendant.layers[2 + number].matrices[0].weight.mul_(0.9)
    return changed


@pytest.fixture(scope="module")
def text(parent: Checkpoint) -> SharedText:
    return share_text(parent, parent, CorpusPolicy(source="specimen", windows=6), seed=0)


def bare(compared: tuple[ComparedText, tuple[LayerError, ...]]) -> tuple[list[Measurement], Any]:
    return [one.model_copy(update={"seconds": 0.0}) for one in compared[0].measurements], compared[1]


@pytest.fixture
def calls(parent: Checkpoint) -> Iterator[list[int]]:
    """Return a list with an entry for each call of the parent's first layer on more than two tokens."""
    noted: list[int] = []

    def note(_: object, __: object, states: torch.Tensor) -> None:
        if states.shape[1] > 2:  # two tokens show only what layers return
            noted.append(1)

    hook = parent.layers[0].module.register_forward_hook(note)
    yield noted
    hook.remove()


def test_a_second_descendant_is_held_beside_what_was_kept(
    parent: Checkpoint, descendants: list[Checkpoint], text: SharedText, calls: list[int]
) -> None:
    passes = ParentPasses()
    first, second = (bare(compare_on_text(parent, one, text, layers=True, passes=passes)) for one in descendants)
    assert calls == [1]
    alone = [bare(compare_on_text(parent, one, text, layers=True)) for one in descendants]
    assert [first, second] == alone
    assert first != second


def test_descendants_that_have_little_memory_or_more_are_held_beside_the_same(
    parent: Checkpoint, descendants: list[Checkpoint], text: SharedText, calls: list[int]
) -> None:
    passes, little = ParentPasses(), replace(parent, memory=50_000)
    given = [replace(descendants[0], memory=memory) for memory in (50_000, None, 50_000)]
    found = [bare(compare_on_text(little, one, text, layers=True, passes=passes)) for one in given]
    assert found == [bare(compare_on_text(parent, descendants[0], text, layers=True))] * 3
    # Logits are read in other pieces where memory is little.
    assert calls == [1, 1, 1]


def test_another_part_of_the_text_is_another_pass(
    parent: Checkpoint, descendants: list[Checkpoint], text: SharedText, calls: list[int]
) -> None:
    passes = ParentPasses()
    for part in (text.part(0, 2), text.part(2, 4), text.part(0, 2)):
        compare_on_text(parent, descendants[0], part, passes=passes)
    assert calls == [1, 1]


def test_what_does_not_fit_is_run_again(
    parent: Checkpoint, descendants: list[Checkpoint], text: SharedText, calls: list[int]
) -> None:
    passes = ParentPasses(most_bytes=1000)
    for one in descendants:
        compare_on_text(parent, one, text, passes=passes)
    assert calls == [1, 1]


def test_a_pass_that_was_broken_off_is_not_kept(
    parent: Checkpoint, descendants: list[Checkpoint], text: SharedText, calls: list[int]
) -> None:
    def stop(_: str, done: int, __: int) -> None:
        if done == 3:
            raise InterruptedError

    passes = ParentPasses()
    with pytest.raises(InterruptedError):
        compare_on_text(parent, descendants[0], text, progress=stop, passes=passes)
    compare_on_text(parent, descendants[0], text, passes=passes)
    assert calls == [1, 1]
