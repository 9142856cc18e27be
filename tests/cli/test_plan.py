from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]  # it ships no types
from support.bulky import HUNDRED_MEGABYTES, SEVENTY_BILLION, write_skeleton
from support.checkpoints import rewrite_weights, save_checkpoint
from support.program import Program

from sw_audit.checks.judging import list_checks
from sw_audit.cli.printing import write_bytes
from sw_audit.memory import write_memory
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import read_policy

DOWN = "model.layers.0.mlp.down_proj.weight"
POLICY = """
[[model]]
source = "models/llama"

[[model]]
source = "models/w4"
parent = "llama"

[descent]
modules = 2
lm_eval = ["arc_easy"]
"""


@pytest.fixture
def policy(program: Program) -> Path:
    for name in ("llama", "w4"):
        save_checkpoint(program.folder / "deep" / "models" / name)
    path = program.folder / "deep" / "it.swaudit.toml"
    path.write_text(POLICY)
    return path


def test_a_plan_says_what_is_read_and_measured_and_loads_nothing(program: Program, policy: Path) -> None:
    ending = program.run("plan", policy)
    assert (ending.code, ending.err) == (0, "")
    lines = [line.rstrip() for line in ending.out.splitlines()]
    stored = write_bytes((policy.parent / "models" / "llama" / "model.safetensors").stat().st_size)
    assert lines[0] == "llama"
    assert lines[1] == f"  reads     models/llama: 1 file, {stored}, plain weights"
    # The windows have 256 tokens, and the models of these tests take 64 at once.
    assert lines[2] == "  text      english, at most 24 windows of 64 tokens"
    alone, beside = (len(list_checks(Policy(), model)) for model in read_policy(policy).models)
    assert lines[3].startswith(f"  measures  {alone} checks in about ")
    assert lines[6] == "w4, beside its parent llama"
    assert lines[8] == f"  parent    models/llama: 1 file, {stored}, plain weights"
    # Four looks, at 4, 8, 16 and 24 windows, share 5 % of error: each has 98.75 %.
    reach = stats.t(23).ppf(1 - 0.0125 / 2) / 24**0.5
    resolved = (
        f"perplexity-ratio {math.exp(0.13 * reach):.4g} times, kl-divergence {math.exp(0.71 * reach):.4g} times"
    )
    assert lines[10].startswith(
        f"  resolves  on english, at the limit: {resolved}, top1-agreement {0.044 * reach:.2g}, "
    )
    assert lines[11].startswith(
        f"  measures  {beside} checks in 3 arms, and more on short windows, with parts of the parent"
    )
    assert lines[11].endswith("5 continuations of each, 1 tasks")
    assert all("  memory    about " in lines[number] for number in (4, 12))
    assert lines[5] == "  weights   read once, and in memory from then on"
    assert sorted(path.name for path in policy.parent.iterdir()) == [policy.name, "models"]


def test_a_plan_says_that_weights_are_not_what_they_should_be(program: Program, policy: Path) -> None:
    folder = policy.parent / "models" / "w4"
    rewrite_weights(folder, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(torch.int8)}))
    ending = program.run("plan", policy)
    assert ending.code == 0
    told = ending.out.splitlines()[-1]
    assert told.startswith("  weights   not intact, so it would not be opened: ")
    assert "I8" in told


def test_a_plan_says_how_long_the_windows_of_the_specimen_s_text_are(program: Program) -> None:
    path = program.folder / "it.swaudit.toml"
    path.write_text('[[model]]\nsource = "specimen"\n')
    assert "at most 128 windows of 128 tokens" in program.run("plan", path).out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it names no model"),
        ('[[model]]\nsource = "./gone"\n', "there is no such folder"),
        ('[[model]]\nsource = "models/llama"\n[[waiver]]\ncheck = "a"\nmodel = "*"\nuntil = 2030-01-01\n'
         'owner = "x"\nreason = "y"\n', "waiver[0].check"),
    ],
    ids=["none", "gone", "waiver"],
)  # fmt: skip
def test_a_plan_of_what_there_is_not_is_one_line(program: Program, policy: Path, text: str, told: str) -> None:
    policy.write_text(text)
    ending = program.run("plan", policy)
    assert ending.code == 2
    [line] = ending.complaints
    assert told in line


def test_a_plan_under_a_budget_says_how_often_layers_are_read_and_refuses_what_cannot_fit(
    tmp_path: Path, program: Program
) -> None:
    # Seventy billion weights in bfloat16, of which there are headers alone.
    folder = write_skeleton(tmp_path / "seventy", SEVENTY_BILLION)
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 1_000_000
    path = program.folder / "big.swaudit.toml"
    path.write_text(f'effort = "thorough"\n[descent]\nlong_new_tokens = 50\n[[model]]\nsource = "{folder}"\n')
    ending = program.run("plan", path, "--memory", "12GiB")
    assert (ending.code, ending.err) == (0, "")
    memory, weights = ending.out.splitlines()[-2:]
    # Embedding and head, and the largest layer three times.
    outside, layer = 2 * 128256 * 8192 * 2, 2 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192)
    assert f"of 12 GiB: weights {write_memory(outside + 2 * 8192 + 3 * layer)}, one layer at a time" in memory
    times = re.search(r"read (\d+) times, (\S+) TB in all", weights)
    assert times
    assert float(times[2]) == pytest.approx(int(times[1]) * 80 * layer / 1e12, rel=0.01)
    assert "generating 50, measuring 1" in weights
    refused = program.run("plan", path, "--memory", "8GiB")
    assert refused.code == 2
    [line] = refused.complaints
    least = re.search(r"--memory (\w+)$", line)
    assert least
    assert program.run("plan", path, "--memory", least[1]).code == 0


def test_a_plan_gives_a_range_from_one_step_of_evidence_to_all(program: Program) -> None:
    folder = write_skeleton(program.folder / "hundred", HUNDRED_MEGABYTES)
    path = program.folder / "it.swaudit.toml"
    path.write_text(f'[[model]]\nsource = "{folder}"\n')

    def read_times(*options: str) -> str:
        out = program.run("plan", path, "--memory", "200MiB", *options).out
        return out.partition("  weights   read ")[2].partition(" times")[0]

    least, _, most = read_times().partition(" to ")
    assert int(least) < int(most)
    assert read_times("--effort", "thorough") == least
