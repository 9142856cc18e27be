"""What whole audits cost under a budget of memory, and what the plan says of it beforehand (`make bench`).

`SW_AUDIT_BENCH_SIZE` names another size of `support.bulky`, such as HUNDRED_MEGABYTES; the budget becomes smaller
with it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import auditing_ways, bulky
from support.checkpoints import make_tokenizer

from sw_audit.memory import write_memory
from sw_audit.policy.reading import overlay_policy, read_policy
from sw_audit.runner.fitting import estimate_memory
from sw_audit.runner.forecast import forecast_reading

SIZE = os.environ.get("SW_AUDIT_BENCH_SIZE", "THREE_BILLION")
BUDGETS = {"THREE_BILLION": "3GiB", "ONE_BILLION": "1GiB", "HUNDRED_MEGABYTES": "200MiB"}
WINDOWS, WINDOW = 16, 64
PLAIN_ARMS = 2
MEMORY_TARGET, TIME_TARGET, PLAN_TARGET = 1 / 4, 1 / 2, 0.15


@dataclass(frozen=True)
class Case:
    """A generated checkpoint, its bytes, and the policies that audit it."""

    size: int
    standard: Path
    thorough: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("bulky")
    room = shutil.disk_usage(folder).free
    if SIZE == "THREE_BILLION" and room < 12_000_000_000:
        pytest.skip(f"needs 12 GB of disk for a checkpoint and its states, {room / 1e9:.1f} GB are free")
    words = [word for word in make_tokenizer().get_vocab() if word.isalnum()]
    drawn = random.Random(0)  # noqa: S311 - words, and no secret
    text = [" ".join(drawn.choices(words, k=60)) + "." for _ in range(200)]
    (folder / "text.txt").write_text("\n\n".join(text))
    try:
        written = bulky.write_llama(folder / "model", getattr(bulky, SIZE))
        paths = {}
        for effort in ("standard", "thorough"):
            paths[effort] = folder / f"{effort}.swaudit.toml"
            paths[effort].write_text(
                f'memory = "{BUDGETS[SIZE]}"\neffort = "{effort}"\n'
                f'[corpus]\nsource = "{folder / "text.txt"}"\nwindow = {WINDOW}\nwindows = {WINDOWS}\n'
                f'[descent]\nnew_tokens = 4\nlong_new_tokens = 8\n[[model]]\nsource = "{folder / "model"}"\n'
            )
        yield Case(written, paths["standard"], paths["thorough"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_way(*given: object) -> dict[str, Any]:
    command = [sys.executable, auditing_ways.__file__, *map(str, given)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=3600)
    measured: dict[str, Any] = json.loads(run.stdout)
    return measured


def test_an_audit_under_a_budget_against_loading_the_model_once_per_arm(case: Case) -> None:
    ours = run_way("audit", case.standard)
    arms, tokens = ours["arms"], ours["tokens"]
    plain = run_way("plain", case.standard, PLAIN_ARMS, tokens, ours["window"])
    seconds = plain["seconds"] / PLAIN_ARMS * arms
    print(
        f"\n{case.size / 1e9:.2f} GB of bfloat16 weights, `--memory {BUDGETS[SIZE]}`, standard effort, "
        f"{arms} arms of at most {tokens} tokens; the plain way was run for {PLAIN_ARMS} arms and multiplied"
    )
    print("| way | peak memory | beyond the program | seconds |")
    print("|---|---|---|---|")
    for name, way, took in (("`from_pretrained` per arm", plain, seconds), ("the audit", ours, ours["seconds"])):
        print(
            f"| {name} | {write_memory(way['peak'])} | {write_memory(way['peak'] - way['before'])} | {took:.0f} |"
        )
    beyond = (ours["peak"] - ours["before"]) / (plain["peak"] - plain["before"])
    print(
        f"| ratio (target {MEMORY_TARGET:.2f}, {TIME_TARGET:.2f}) | {ours['peak'] / plain['peak']:.2f} "
        f"| {beyond:.2f} | {ours['seconds'] / seconds:.2f} |"
    )
    for stage, (took, read, peak) in ours["stages"].items():
        if stage:
            print(f"  {stage}: {took:.1f} s, {read / 1e9:.2f} GB, peak so far {write_memory(peak)}")
    assert ours["located"] == [list(bulky.PLANTED)]
    assert not (budget := ours["used"])["peak"] or budget["peak"] <= budget["budget"]


def test_however_many_arms_there_are_the_same_is_read(case: Case) -> None:
    runs = {arms: run_way("arms", case.standard, arms) for arms in (8, 16, 32)}
    print("\n| arms | bytes of weights read | seconds |")
    print("|---|---|---|")
    for arms, told in runs.items():
        print(f"| {arms} | {told['read']:,} | {told['seconds']:.1f} |")
    assert len({told["read"] for told in runs.values()}) == 1


def test_the_plan_against_the_truth(case: Case) -> None:
    policy = overlay_policy(read_policy(case.thorough))
    [model] = policy.models
    need, forecast = estimate_memory(policy, model), forecast_reading(policy, model)
    assert need is not None
    assert forecast is not None
    told = run_way("audit", case.thorough)
    print(f"\n| of a thorough audit | planned | measured | ratio (target within {PLAN_TARGET:.0%}) |")
    print("|---|---|---|---|")
    pairs = {"memory": (need.total, told["used"]["peak"]), "read": (forecast.most, told["used"]["weights_read"])}
    for what, (planned, measured) in pairs.items():
        print(f"| {what} | {write_memory(planned)} | {write_memory(measured)} | {planned / measured:.2f} |")
