"""What an audit does outside of its arms, stage by stage, on a published model (`make bench`).

The model is fetched once, as by `make real`; `SW_AUDIT_BENCH_MODEL` names another that is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.plan import plan_arms, plan_needs, plan_trials
from sw_audit.checks.registry import find_checks
from sw_audit.checks.super_activation_persists import SuperActivationPersistsLimits
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import cut_calibration, draw_prompts, shorten_windows, window_corpus
from sw_audit.locate.controls import count_weights
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.rotation import recognize_rotation
from sw_audit.locate.trace import trace_prompts
from sw_audit.locate.weight_norms import predict_from_weights
from sw_audit.measure.activation_setup import prepare_activations
from sw_audit.measure.generation import continue_prompts
from sw_audit.measure.mechanism import follow_super_activations
from sw_audit.measure.start import try_starts
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.runner import single
from sw_audit.runner.cache import Cache
from sw_audit.runner.cache_keys import open_arm_cache
from sw_audit.runner.run import preflight
from sw_audit.runner.text import settle_corpus
from sw_audit.testing.counterexamples import search_prompts
from tools.real.fetching import FetchError, fetch_model

ROOT = Path(__file__).parents[2]
TOKENS, TARGET = 2048, 15.0

Result = TypeVar("Result")


@dataclass
class Stages:
    """Wall and processor seconds of each stage, in the order in which they ran."""

    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - wall, time.process_time() - processor

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        with self.time(name):
            return work()


@pytest.fixture(scope="module")
def source() -> str:
    if named := os.environ.get("SW_AUDIT_BENCH_MODEL"):
        return named
    try:
        return str(fetch_model(ROOT / ".cache" / "real"))
    except FetchError as error:
        pytest.skip(str(error))


def test_stages_outside_of_the_arms(source: str, tmp_path: Path) -> None:
    stages, model = Stages(), ModelPolicy(source=source)
    policy = Policy(models=(model,))
    checks = [check.id for check in find_checks().values() if check.scope != "descendant"]
    stages.run("preflight", lambda: preflight(policy))
    policy = stages.run("choosing the text", lambda: settle_corpus(policy, model))
    stages.run("cache keys", lambda: open_arm_cache(policy, model, checks, Cache(tmp_path)))
    text = stages.run("reading the text", lambda: read_corpus(policy.corpus))
    stages.run("inspecting the files", lambda: lint_checkpoint(model))
    checkpoint = stages.run("opening", lambda: open_checkpoint(model)).starting(policy.bos_rule(model))
    tokenizer, bos = checkpoint.tokenizer, checkpoint.start.bos
    windows = stages.run(
        "tokenizing and windows",
        lambda: shorten_windows(window_corpus(text, tokenizer, policy.corpus, checkpoint.maximum_positions, bos)),
    )
    stages.run("trying starts", lambda: try_starts(checkpoint, windows))
    located = stages.run("locating", lambda: locate_super_weights(checkpoint))
    located = stages.run("predicting from weights", lambda: predict_from_weights(checkpoint.layers, located))
    located = stages.run("rotation", lambda: recognize_rotation(checkpoint, located))
    needs = plan_needs(policy, checks, count_weights(checkpoint.layers))
    targets = stages.run(
        "drawing controls", lambda: single._select_targets(checkpoint, located, needs, policy.seed)
    )
    unscored = cut_calibration(text, tokenizer, windows, policy.activations.calibration_windows)
    trials = plan_trials(policy, checks, targets)
    setup = stages.run(
        "setting activations up", lambda: prepare_activations(checkpoint, located.token_ids, unscored, trials)
    )
    law = policy.checks[SuperActivationPersistsLimits]
    channels = [activation.channel for activation in located.super_activations]
    prompts = [(located.prompt, located.token_ids), *draw_prompts(windows, tokenizer)]
    stages.run("following prompts", lambda: trace_prompts(checkpoint, channels, prompts))
    stages.run("searching prompts", lambda: search_prompts(checkpoint, located, law.examples, law.tolerance))
    stages.run("mechanism", lambda: follow_super_activations(checkpoint, located))
    stages.run("continuing prompts", lambda: continue_prompts(checkpoint, windows, policy.descent))

    token_ids = torch.randint(0, checkpoint.vocabulary, (8, TOKENS // 8))
    plain = Stages()
    with torch.no_grad():
        plain.run("plain", lambda: checkpoint.model(input_ids=token_ids, use_cache=False))
    plain_wall, plain_processor = plain.seconds["plain"]
    walls, processors = zip(*stages.seconds.values(), strict=True)
    print(
        f"\n{checkpoint.identity.parameters / 1e6:.1f} million weights in {checkpoint.identity.dtype}, "
        f"{torch.get_num_threads()} threads; {len(plan_arms(policy, checks, targets, setup))} arms are not run"
    )
    print(f"a plain pass over {TOKENS:,} tokens: {plain_wall:.2f} s, {plain_processor:.2f} s of processor time")
    print("| stage | seconds | of processor time | of a plain pass |")
    print("|---|---|---|---|")
    for name, (wall, processor) in stages.seconds.items():
        print(f"| {name} | {wall:.2f} | {processor:.2f} | {processor / plain_processor:.2f} |")
    print(f"| all | {sum(walls):.2f} | {sum(processors):.2f} | {sum(processors) / plain_processor:.2f} |")
    print(f"target: {TARGET:.0f} s with two idle cores")
    assert located.super_weights


def test_imports_of_the_command_line() -> None:
    print("\n| until | seconds | of processor time |")
    print("|---|---|---|")
    programs = {
        "Python itself": "pass",
        "torch and transformers": "import torch, transformers",
        "the command line": "import sw_audit.cli.main",
        "the first stage of an audit": "import sw_audit.cli.audit, sw_audit.runner.run, sw_audit_reports.html",
    }
    for name, program in programs.items():
        before, begun = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        wall, after = time.perf_counter() - begun, os.times()
        spent = sum(after[place] - before[place] for place in (2, 3))
        print(f"| {name} | {wall:.2f} | {spent:.2f} |")
