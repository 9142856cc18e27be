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
from sw_audit.checks.arms import ArmTargets
from sw_audit.checks.judging import list_measured
from sw_audit.checks.plan import plan_arms, plan_needs
from sw_audit.checks.registry import Need, find_checks
from sw_audit.checks.statistics import tell_reach
from sw_audit.checks.waivers import examine_waivers
from sw_audit.cli.printing import print_line, write_bytes
from sw_audit.corpus.looks import plan_looks
from sw_audit.corpus.text import BUILT_IN, MANY_WINDOWS, read_corpus
from sw_audit.corpus.windows import MORE, SHORT
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.record.address import WeightAddress
from sw_audit.runner.assignments import read_policy_file
from sw_audit.runner.text import settle_corpus
from sw_audit.specimen.shipped import find_shipped

_LONGEST_WINDOW = 2048


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
    cuts = {text: _find_windows(text, size) for text in texts}
    windows = (
        f"{text.source}, at most {count} windows of {window} tokens" for text, (count, window) in cuts.items()
    )
    yield f"  text      {'; '.join(windows)}"
    arms = count_arms(policy, checks, descends=parent is not None)
    for text, (count, window) in cuts.items():
        if resolved := list(_list_resolved(policy, checks, count, window)):
            yield f"  resolves  on {text.source}, at the limit: {', '.join(resolved)}"
    yield f"  measures  {len(checks)} checks in {_describe_arms(policy, arms, descends=parent is not None)}"
    if size is None or (parent and above is None):
        yield "  memory    not known before the files are here"
        return
    weights = estimate_weights(size, above)
    tokens = max(count * window for count, window in cuts.values())
    streams = arms * tokens * (size.hidden or 0) * size.width
    yield (
        f"  memory    about {write_bytes(weights + streams)}: weights {write_bytes(weights)}, "
        f"hidden states of all arms {write_bytes(streams)}"
    )


def _describe_files(model: ModelPolicy, size: Size | None) -> str:
    if size is None:
        return f"{model.source}: not here yet, it would be fetched from the hub"
    files = "1 file" if size.files == 1 else f"{size.files} files"
    stored = "plain weights" if size.method == "plain" else f"weights stored as {size.method}"
    return f"{model.source}: {files}, {write_bytes(size.stored)}, {stored}"


def _find_windows(text: CorpusPolicy, size: Size | None) -> tuple[int, int]:
    """Return how many windows of a text are scored at most, and their length in tokens."""
    shipped = read_corpus(text) if text.source in BUILT_IN else None
    count = text.windows or (shipped.natural_windows if shipped else MANY_WINDOWS)
    longest = min(_LONGEST_WINDOW, (size and size.positions) or _LONGEST_WINDOW)
    return count, text.window or min((shipped and shipped.natural_window) or longest, longest)


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


def count_arms(policy: Policy, checks: list[str], *, descends: bool) -> int:
    """Count the arms that are measured on the first text, with one super weight."""
    if descends:
        return 3  # the parent, the model, and the model with its super weights put back
    some = (WeightAddress(parameter="one", row=0, column=0),)
    needs = plan_needs(policy, checks, decoder_weights=1)
    roles = ArmTargets(
        super_weights=some,
        other_outliers=some if needs.other_outliers else (),
        placebos=dict.fromkeys(needs.placebos, some),
        channels=(0,),
    )
    setup = ActivationSetup(calibration_windows=1) if Need.ACTIVATIONS in needs else None
    return len(plan_arms(policy, checks, roles, setup))


def estimate_weights(size: Size, above: Size | None) -> int:
    """Return the bytes of weights that are in memory at once, at most.

    A model by itself is there whole, with a copy of the largest layer that an arm changes. Of a parent first the
    whole is asked and let go; then one layer of it at a time comes back beside the model.
    """
    own = size.memory + size.layer
    return own if above is None else max(above.memory, own + above.layer)
