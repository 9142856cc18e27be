"""`sw-audit plan`: what an audit would read and measure, how often, and how much memory it takes, beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.checkpoint.budget import refuse_small_budget
from sw_audit.checkpoint.lint_headers import lint_headers
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checks.judging import list_measured
from sw_audit.checks.registry import find_checks
from sw_audit.checks.statistics import tell_reach
from sw_audit.checks.waivers import examine_waivers
from sw_audit.cli.options import describe
from sw_audit.cli.printing import print_line, write_bytes
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.windows import MORE, SHORT
from sw_audit.memory import write_memory
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import overlay_policy
from sw_audit.runner.assignments import read_policy_file
from sw_audit.runner.fitting import MemoryNeed, count_arms, estimate_memory, find_windows
from sw_audit.runner.forecast import Forecast, forecast_reading
from sw_audit.runner.text import settle_corpus
from sw_audit.specimen.shipped import find_shipped


def plan(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy file.")],
    *,
    memory: Annotated[str | None, describe("memory")] = None,
    effort: Annotated[str | None, describe("effort")] = None,
) -> None:
    """Say what an audit under a policy would read and measure, and how much memory it needs; nothing is loaded.

    Sizes come from the headers of the weight files alone. A model on the hub that is not here yet is not fetched.
    A budget of memory that a model cannot be audited in is refused with one that it can.

    For example:

      sw-audit plan audit.swaudit.toml

      sw-audit plan audit.swaudit.toml --memory 12GiB --effort thorough
    """
    read = overlay_policy(read_policy_file(policy), memory=memory, effort=effort)
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
    if model.in_engine:
        others = f", and with its cache as {', '.join(model.kv_cache)}" if model.kv_cache else ""
        yield f"  engine    {model.engine}{others}; the same files in transformers beside it"
    arms = count_arms(policy, checks, descends=parent is not None)
    for text, (count, window) in cuts.items():
        if resolved := list(_list_resolved(policy, checks, count, window)):
            yield f"  resolves  on {text.source}, at the limit: {', '.join(resolved)}"
    yield f"  measures  {len(checks)} checks in {_describe_arms(policy, arms, descends=parent is not None)}"
    refuse_small_budget(local, policy.memory, parent)
    need, forecast = estimate_memory(policy, model), forecast_reading(policy, model)
    if need is None or forecast is None:
        yield "  memory    not known before the files are here"
        return
    yield _describe_memory(need, policy)
    yield _describe_reading(forecast)


def _describe_memory(need: MemoryNeed, policy: Policy) -> str:
    of = "" if policy.memory is None else f" of {write_memory(policy.memory)}"
    opened = "one layer at a time" if need.streamed else "opened as a whole"
    spilled = f", and {write_memory(need.spilled)} of them on disk" if need.spilled else ""
    work = f"; what passes a layer or is differentiated {write_memory(need.work)}" if need.work else ""
    return (
        f"  memory    about {write_memory(need.total)}{of}: weights {write_memory(need.weights)}, {opened}; "
        f"hidden states of all arms {write_memory(need.streams)}{spilled}{work}"
    )


def _describe_reading(forecast: Forecast) -> str:
    if not forecast.most:
        return "  weights   read once, and in memory from then on"
    least, most = forecast.count(most=False), forecast.count(most=True)
    amount = _write_range(forecast.least, forecast.most)
    times = "" if not forecast.streamed else f" {least} times," if least == most else f" {least} to {most} times,"
    stages = [
        f"{stage.stage} {max(stage.model, stage.parent)}"
        for stage in forecast.stages
        if max(stage.model if forecast.streamed else 0, stage.parent)
    ]
    return f"  weights   read{times} {amount} in all, however many arms: {', '.join(stages)}"


def _write_range(least: int, most: int) -> str:
    written = write_bytes(least), write_bytes(most)
    return written[0] if written[0] == written[1] else " to ".join(written)


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
