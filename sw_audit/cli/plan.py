"""`sw-audit plan`: what an audit would read and measure, and how much memory that takes, before it does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.checkpoint.lint_headers import lint_headers
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checks.judging import list_measured
from sw_audit.checks.registry import find_checks
from sw_audit.checks.statistics import tell_reach
from sw_audit.checks.waivers import examine_waivers
from sw_audit.cli.printing import print_line, write_bytes
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.windows import MORE, SHORT
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.runner.assignments import read_policy_file
from sw_audit.runner.fitting import count_arms, estimate_memory, find_windows
from sw_audit.runner.text import settle_corpus
from sw_audit.specimen.shipped import find_shipped


def plan(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy file.")],
) -> None:
    """Say what an audit under a policy would read and measure, and how much memory it needs; nothing is loaded.

    Sizes come from the headers of the weight files alone. A model on the hub that is not here yet is not fetched.

    For example:

      sw-audit plan audit.swaudit.toml
    """
    read = read_policy_file(policy)
    examine_waivers(read, [*find_checks()])
    # Relative paths in a policy are taken from the folder that it lies in.
    with chdir(policy.resolve().parent):
        lines = [line for model in read.models for line in _describe(model, read)]
    for line in lines:
        print_line(line)


def _describe(model: ModelPolicy, policy: Policy) -> Iterator[str]:
    parent, checks = policy.find_parent(model), list_measured(policy, model)
    local = model.model_copy(update={"source": find_shipped(model.source), "manifest": None})
    policy = settle_corpus(policy, local)
    size = size_checkpoint(local)
    above = size_checkpoint(parent.model_copy(update={"source": find_shipped(parent.source)})) if parent else None
    texts = (policy.corpus, *(policy.descent.texts if parent else ()))
    yield f"{model.id}{f', beside its parent {parent.id}' if parent else ''}"
    yield f"  reads     {_describe_files(model, size)}"
    if parent:
        yield f"  parent    {_describe_files(parent, above)}"
    flaw = size and next((flaw for flaw in lint_headers(local).flaws if flaw.serious), None)
    if flaw:
        yield f"  weights   not intact, so it would not be opened: {flaw.where}: {flaw.found}"
        return
    cuts = {text: find_windows(text, size) for text in texts}
    windows = (
        f"{text.source}, at most {count} windows of {window} tokens" for text, (count, window) in cuts.items()
    )
    yield f"  text      {'; '.join(windows)}"
    arms = count_arms(policy, checks, descends=parent is not None)
    for text, (count, window) in cuts.items():
        if resolved := list(_list_resolved(policy, checks, count, window)):
            yield f"  resolves  on {text.source}, at the limit: {', '.join(resolved)}"
    yield f"  measures  {len(checks)} checks in {_describe_arms(policy, arms, descends=parent is not None)}"
    need = estimate_memory(policy, model)
    if need is None:
        yield "  memory    not known before the files are here"
        return
    yield (
        f"  memory    about {write_bytes(need.weights + need.streams)}: weights {write_bytes(need.weights)}, "
        f"hidden states of all arms {write_bytes(need.streams)}"
    )


def _describe_files(model: ModelPolicy, size: Size | None) -> str:
    if size is None:
        return f"{model.source}: not here yet, it would be fetched from the hub"
    files = "1 file" if size.files == 1 else f"{size.files} files"
    stored = "plain weights" if size.method == "plain" else f"weights stored as {size.method}"
    return f"{model.source}: {files}, {write_bytes(size.stored)}, {stored}"


def _list_resolved(policy: Policy, checks: list[str], count: int, window: int) -> Iterator[str]:
    """Tell the smallest effects that a text can tell from none, of checks whose figures spread as is known."""
    known = find_checks()
    stepwise = policy.effort != "thorough"
    windows = count * max(1, min(MORE, window // SHORT)) if stepwise else count
    looks = len(plan_looks(windows, min(window, SHORT), 0, policy.minimum_windows)) if stepwise else 1
    confidence = 1 - (1 - policy.confidence) / looks
    for check in (known[name] for name in checks):
        if check.spread is None or windows < policy.minimum_windows:
            continue
        # A longer window differs less from another, as if it were several short ones.
        spread = check.spread if stepwise else check.spread * math.sqrt(SHORT / max(window, SHORT))
        reach = tell_reach(windows, spread, confidence)
        yield f"{check.id} {f'{reach:.2g}' if check.unit == 'share' else f'{math.exp(reach):.4g} times'}"


def _describe_arms(policy: Policy, arms: int, *, descends: bool) -> str:
    if not descends:
        return f"about {arms} arms, if there is one super weight"
    prompts = len(policy.descent.prompt_tokens) + 1
    again = " and more on short windows, with parts of the parent put back, where quality fails,"
    tasks = f", {len(policy.descent.lm_eval)} tasks" if policy.descent.lm_eval else ""
    return f"{arms} arms,{again if policy.descent.modules else ''} {prompts} continuations of each{tasks}"
