"""`sw-audit bisect`: the first checkpoint of a series at which a check turns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.program import Program
from support.series import SHARDS, write_fading, write_member

CHECK = "prune-collapses"
"""Passes on `llama-...`, with 213.6, fails on `broken-...`, with 1.72, and `short-...` is inconclusive."""


def write_series(folder: Path, *names: str) -> None:
    """Write checkpoints, whose names say what is made up for them, one after the other in time."""
    for time, name in enumerate(names, start=1):
        os.utime(write_member(folder / "run" / name) / "config.json", (time, time))


def test_the_first_that_fails_is_named_with_the_one_before_both_figures_and_the_limit(quick: Program) -> None:
    write_series(quick.folder, "llama-a", "llama-b", "llama-c", "broken-d", "broken-e")
    ending = quick.run("bisect", "specimen", "run", CHECK)
    assert (ending.code, ending.err) == (1, "")
    assert ending.out.splitlines() == [
        "llama-a   PASS, perplexity ratio 213.6 [211, 216.2], limit 10",
        "broken-e  FAIL, perplexity ratio 1.72 [1.699, 1.741], limit 10",
        "llama-c   PASS, perplexity ratio 213.6 [211, 216.2], limit 10",
        "broken-d  FAIL, perplexity ratio 1.72 [1.699, 1.741], limit 10",
        "4 of 5 checkpoints were audited, in order of time; this assumes that prune-collapses, once it fails, "
        "fails from then on",
        "broken-d is the first at which prune-collapses fails: perplexity ratio 1.72 [1.699, 1.741], limit 10; "
        "llama-c, before it: perplexity ratio 213.6 [211, 216.2], limit 10",
    ]
    measured = Path(os.environ["STANDIN_NOTES"]).read_text(encoding="utf-8").splitlines()
    assert [line.split()[3:] for line in measured] == [[CHECK]] * 4
    assert quick.run("bisect", "specimen", "run", CHECK, "-q").out == f"{ending.out.splitlines()[-1]}\n"
    assert Path(os.environ["STANDIN_NOTES"]).read_text(encoding="utf-8").splitlines() == measured


def test_where_some_are_inconclusive_the_range_is_named(quick: Program) -> None:
    write_series(quick.folder, "short-a", "llama-b", "short-c", "short-d", "broken-e", "broken-f")
    ending = quick.run("bisect", "specimen", "run", CHECK, "--json")
    assert (ending.code, ending.err) == (1, "")
    document = json.loads(ending.out)
    answer = {key: document[key] for key in ("schema", "order", "outcome", "before", "first", "candidates")}
    assert answer == {
        "schema": 1, "order": "time", "outcome": "turned", "before": "llama-b", "first": None,
        "candidates": ["short-c", "short-d", "broken-e"],
    }  # fmt: skip
    statuses = {step["checkpoint"]: step["status"] for step in document["steps"]}
    assert statuses == {
        "short-a": "inconclusive", "broken-f": "fail", "llama-b": "pass", "short-d": "inconclusive",
        "short-c": "inconclusive", "broken-e": "fail",
    }  # fmt: skip
    assert {step["limit"] for step in document["steps"]} == {10}
    told = quick.run("bisect", "specimen", "run", CHECK, "-q").out
    assert told.startswith("prune-collapses turns at one of short-c, short-d, broken-e; llama-b, before them: ")


@pytest.mark.parametrize(
    ("names", "code", "told"),
    [
        (["llama-a", "llama-b"], 0, "prune-collapses does not turn: llama-a and llama-b are alike, PASS; "),
        (["broken-a", "broken-b"], 1, "prune-collapses does not turn: broken-a and broken-b are alike, FAIL; "),
        (["broken-a", "llama-b"], 1, "prune-collapses does not turn from pass to fail: broken-a: perplexity "),
        (["llama-a", "short-b"], 3, "prune-collapses: of 2 checkpoints fewer than two could be decided"),
        (["llama-a", "llama-b", "gone-c"], 3, "prune-collapses does not turn: llama-a and llama-b are alike, "),
        (["slow-a", "slow-b"], 3, "prune-collapses: the bisection was stopped; "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_series_that_does_not_turn_or_cannot_be_decided_is_told(
    quick: Program, names: list[str], code: int, told: str
) -> None:
    write_series(quick.folder, *names)
    (quick.folder / "policy.toml").write_text('budget = "0.3s"\n' if "slow-a" in names else "")
    ending = quick.run("bisect", "specimen", "run", CHECK, "--policy=policy.toml", "-q")
    assert ending.code == code
    assert ending.out.startswith(told)
    assert len(ending.out.splitlines()) == 1


def test_a_checkpoint_that_is_not_whole_is_left_out_and_told(quick: Program) -> None:
    write_series(quick.folder, "llama-1", "llama-2", "broken-3")
    (quick.folder / "run/broken-3" / SHARDS[1]).unlink()
    ending = quick.run("bisect", "specimen", "run", CHECK, "-q")
    assert ending.code == 0
    told = f"sw-audit: broken-3 is left out, for it is not whole: shard {SHARDS[1]} is missing"
    assert ending.complaints == [told]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["specimen", "run", "prune-colapses"], "check 'prune-colapses': there is no such check; did you mean"),
        (["./none", "run", CHECK], "model './none': there is no such folder; "),
        (["specimen", "none", CHECK], "folder 'none': there is no such folder; "),
        (["specimen", "empty", CHECK], "folder 'empty': it holds no whole checkpoint; "),
        (["specimen", "run", CHECK], "folder 'run': it holds one whole checkpoint; "),
        (["specimen", "run", CHECK, "--policy=none.toml"], "policy none.toml: "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_is_one_line(quick: Program, arguments: list[str], told: str) -> None:
    (quick.folder / "empty").mkdir()
    write_series(quick.folder, "llama-1")
    ending = quick.run("bisect", *arguments)
    assert (ending.code, ending.out) == (2, "")
    [line] = ending.complaints
    assert line.startswith(f"sw-audit: {told}")


@pytest.mark.slow
def test_where_the_super_weight_fades_the_turn_is_where_the_limit_is_passed(program: Program) -> None:
    # A tenth less at each: 0, 0.1, 0.2 are off by less than the limit of 0.25; the fourth, 0.3, by more.
    write_fading(program.folder / "run", [1 - number / 10 for number in range(9)])
    ending = program.run("bisect", "specimen", "run", "super-weight-retained", "--json", "-q")
    document = json.loads(ending.out)
    assert (ending.code, document["before"], document["first"]) == (1, "checkpoint-1500", "checkpoint-2000")
    figures = {step["checkpoint"]: step["observed"] for step in document["steps"]}
    assert len(figures) == 5
    assert figures["checkpoint-1500"] == pytest.approx(0.2, rel=1e-6)
    assert figures["checkpoint-2000"] == pytest.approx(0.3, rel=1e-6)
