"""Checkpoints that are waited for: when one is whole, what is told of others, and what has come."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.series import SHARDS, write_member

from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.runner.awaiting import PATIENCE, SETTLED, AwaitedSeries


class Awaited:
    """A folder, looked into at times that the test chooses; `lines` is what was told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()
        self.series = AwaitedSeries(folder, lambda path: ModelPolicy(source=str(path)), None, self.lines.append, 0)

    def look(self, now: float) -> list[str]:
        return [path.name for path in self.series.look(now)]


@pytest.fixture
def awaited(tmp_path: Path) -> Awaited:
    return Awaited(tmp_path)


def test_a_checkpoint_is_whole_when_nothing_has_changed_for_a_moment_and_nothing_is_lacking(
    awaited: Awaited,
) -> None:
    folder = write_member(awaited.folder / "checkpoint-1", shards=1)
    assert awaited.look(0) == []
    assert awaited.series.settling
    assert awaited.look(SETTLED) == []
    assert awaited.series.lacking == {folder: f"shard {SHARDS[1]} is missing"}
    write_member(folder)
    assert awaited.look(10) == awaited.look(10 + SETTLED / 2) == []
    assert awaited.series.changed == 10
    (folder / "trainer_state.json").write_text("{}")
    assert awaited.look(10 + SETTLED) == []
    assert awaited.look(10 + 2 * SETTLED) == ["checkpoint-1"]
    awaited.series.finish(folder)
    assert awaited.look(100) == []
    assert (awaited.series.audited, awaited.series.lacking, awaited.lines) == ([folder], {}, [])


def test_a_trainers_checkpoint_is_waited_for_until_its_state_is_there_or_a_minute_is_over(
    awaited: Awaited,
) -> None:
    for number in (1, 2):
        (write_member(awaited.folder / f"checkpoint-{number}") / "training_args.bin").write_bytes(b"1")
    assert awaited.look(0) == awaited.look(PATIENCE - 2 * SETTLED) == []
    (awaited.folder / "checkpoint-2/trainer_state.json").write_text("{}")
    assert awaited.look(PATIENCE - 2 * SETTLED) == []
    assert awaited.look(PATIENCE - SETTLED) == ["checkpoint-2"]
    assert awaited.look(PATIENCE) == ["checkpoint-1", "checkpoint-2"]
    assert awaited.lines == []


def test_one_that_stays_incomplete_is_told_once_and_holds_no_other_up(awaited: Awaited) -> None:
    write_member(awaited.folder / "checkpoint-1", shards=1)
    write_member(awaited.folder / "checkpoint-2")
    awaited.look(0)
    assert awaited.look(SETTLED) == ["checkpoint-2"]
    awaited.look(PATIENCE - 1)
    assert awaited.lines == []
    awaited.look(PATIENCE)
    awaited.look(2 * PATIENCE)
    assert awaited.lines == [f"checkpoint-1 is not whole, and waits: shard {SHARDS[1]} is missing"]


def test_one_that_is_deleted_is_told_unless_it_was_audited(awaited: Awaited) -> None:
    first, second, third = (write_member(awaited.folder / f"checkpoint-{number}") for number in (1, 2, 10))
    awaited.look(0)
    assert awaited.look(SETTLED) == ["checkpoint-1", "checkpoint-2", "checkpoint-10"]
    awaited.series.finish(first)
    for path in (first, second, third):
        shutil.rmtree(path)
    awaited.series.wait_again(third, SETTLED)
    assert awaited.look(SETTLED + 1) == []
    assert awaited.lines == [
        "checkpoint-10 was deleted while it was audited",
        "checkpoint-2 was deleted before it was audited",
    ]
    assert awaited.series.audited == [first]


def test_one_that_changes_after_or_while_it_is_audited_is_waited_for_again(awaited: Awaited) -> None:
    folder = write_member(awaited.folder / "checkpoint-1")
    awaited.look(0)
    assert awaited.look(SETTLED) == ["checkpoint-1"]
    assert awaited.series.is_as_seen(folder)
    (folder / "optimizer.pt").write_bytes(b"12")
    assert not awaited.series.is_as_seen(folder)
    awaited.series.wait_again(folder, SETTLED)
    assert awaited.look(SETTLED + 1) == []
    assert awaited.look(2 * SETTLED + 1) == ["checkpoint-1"]
    awaited.series.finish(folder)
    (folder / "optimizer.pt").write_bytes(b"123")
    assert awaited.look(100) == []
    assert awaited.look(100 + SETTLED) == ["checkpoint-1"]
