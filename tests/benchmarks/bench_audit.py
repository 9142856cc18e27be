"""What whole audits cost, over plain passes of transformers in the same process (`make bench`).

The model is SmolLM2-135M-Instruct, fetched once as by `make real`. The specimen is audited as `make audit` does
it, in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.benchmarks import run_plainly, take_seconds
from support.planted import wrap_model
from transformers import LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.arms import measure_arms
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Custom, Scale
from sw_audit.record.verdict import Status
from sw_audit.runner.run import run
from tools.real.descendants import make_descendants
from tools.real.fetching import FetchError, fetch_model

CACHE = Path(__file__).parents[2] / ".cache" / "real"
PLAIN_TOKENS = 2048


@pytest.fixture(scope="module")
def source() -> Path:
    try:
        return fetch_model(CACHE)
    except FetchError as error:
        pytest.skip(str(error))


def audit(source: Path, parent: Path | None = None, **more: object) -> tuple[float, float, str]:
    """Audit a model by the default policy; return seconds of clock and processor, and what came of it."""
    model = {"source": str(source), **({} if parent is None else {"parent": str(parent)})}
    policy = Policy.model_validate({"model": [model], **more})
    records = []
    clock, processor = take_seconds(lambda: records.append(run(policy)))
    statuses = [verdict.status for record in records for verdict in record.verdicts]
    return clock, processor, ", ".join(f"{statuses.count(one)} {one}" for one in Status if one in statuses)


def test_whole_audits_over_plain_passes(source: Path) -> None:
    [descendant] = make_descendants(ModelPolicy(source=str(source)), CACHE / "descendants", ("int8-g64",))
    checkpoint = open_checkpoint(ModelPolicy(source=str(source)))
    text = Windows(
        torch.randint(3, checkpoint.vocabulary, (8, PLAIN_TOKENS // 8)), torch.ones(8, dtype=torch.long)
    )
    run_plainly(checkpoint, text)
    plain = [take_seconds(lambda: run_plainly(checkpoint, text)) for _ in range(3)]
    clock, processor = min(one[0] for one in plain), min(one[1] for one in plain)
    print(f"\n{source.name}, {torch.get_num_threads()} threads; {PLAIN_TOKENS:,} tokens plainly: {clock:.2f} s")
    print("| work | over plain passes | of processor time | target | verdicts |")
    print("|---|---|---|---|---|")
    cases: list[tuple[str, int, Callable[[], tuple[float, float, str]], str]] = [
        ("audit, standard", 1, lambda: audit(source), "12"),
        ("audit, quick", 1, lambda: audit(source, effort="quick"), "4"),
        ("gate of one descendant, over two", 2, lambda: audit(descendant, source), "8"),
    ]
    for label, passes, work, target in cases:
        taken = work()
        ratios = f"{taken[0] / clock / passes:.1f} | {taken[1] / processor / passes:.1f}"
        print(f"| {label} | {ratios} | {target} | {taken[2]} |", flush=True)


def test_the_specimen_as_make_audit_does_it(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from sw_audit.cli.main import run; run()",
        "audit",
        "specimen",
        "--no-cache",
        "--out",
        str(tmp_path),
    ]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, "--quiet"], check=True)
    clock, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\nspecimen, from start to end: {used:.1f} s of processor time (target 10), {clock:.1f} s of the clock")


def build(layers: int) -> Checkpoint:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    return wrap_model(LlamaForCausalLM(config))


def measure(layers: int, arms: int, windows: int) -> float:
    """Return seconds for arms that scale a scalar of the first layer, so that none shares a layer's output."""
    checkpoint = build(layers)
    down = checkpoint.layers[0].down_projection
    assert down is not None
    scaled = [
        Arm(
            purpose=Custom(label=str(number)),
            acts=(
                Scale(
                    addresses=(AddressGroup(parameter=down.parameter, rows=(1,), columns=(number,)),), factor=0.5
                ),
            ),
        )
        for number in range(arms - 1)
    ]
    text = Windows(torch.randint(3, 8000, (windows, 64)), torch.ones(windows, dtype=torch.long))

    def work() -> object:
        return measure_arms(checkpoint, [BASELINE, *scaled], text, protocol="bench")

    work()
    return min(take_seconds(work)[0] for _ in range(3))


def test_growth_with_arms_windows_and_layers() -> None:
    base = {"layers": 8, "arms": 8, "windows": 8}
    print("\n| growth with | 1 time | 2 times | 4 times | seconds per unit, first to last |")
    print("|---|---|---|---|---|")
    for what, count in base.items():
        seconds = [measure(**{**base, what: count * times}) for times in (1, 2, 4)]
        ratios = " | ".join(f"{one / seconds[0]:.2f}" for one in seconds)
        slope = (seconds[2] - seconds[0]) / (3 * count)
        print(f"| {what} ({count}) | {ratios} | {slope:.4f} |", flush=True)
