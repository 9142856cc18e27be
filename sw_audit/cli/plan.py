"""`sw-audit plan`: what an audit would read and measure, and how much memory that takes, before it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.checkpoint.lint_headers import lint_headers
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.checks.arms import ArmTargets
from sw_audit.checks.judging import list_checks
from sw_audit.checks.plan import plan_arms, plan_needs
from sw_audit.checks.registry import Need, find_checks
from sw_audit.checks.waivers import examine_waivers
from sw_audit.corpus.text import SPECIMEN, read_corpus
from sw_audit.errors import PolicyError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.policy.reading import read_policy
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.record.address import WeightAddress
from sw_audit.specimen.shipped import find_shipped

_LONGEST_WINDOW = 2048
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def plan(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="The policy file.")],
) -> None:
    """Say what an audit under a policy would read and measure, and how much memory it needs; nothing is loaded.

    Sizes come from the headers of the weight files alone. A model on the hub that is not here yet is not fetched.

    For example:

      sw-audit plan audit.swaudit.toml
    """
    read = read_policy(policy)
    if not read.models:
        raise PolicyError(f"policy {policy}", "it names no model", "add a [[model]] table with a source")
    examine_waivers(read, [*find_checks()])
    # Relative paths in a policy are taken from the folder that it lies in.
    with chdir(policy.resolve().parent):
        lines = [line for model in read.models for line in _describe(model, read)]
    for line in lines:
        typer.echo(line)


def _describe(model: ModelPolicy, policy: Policy) -> Iterator[str]:

    parent = policy.find_parent(model)
    checks = [check.id for check in list_checks(policy, model)]
    size, above = _size(model), _size(parent) if parent else None
    yield f"{model.id}{f', beside its parent {parent.id}' if parent else ''}"
    yield f"  reads     {_tell_files(model, size)}"
    if parent:
        yield f"  parent    {_tell_files(parent, above)}"
    if (flaw := _find_flaw(model, size)) is not None:
        yield f"  weights   not intact, so it would not be opened: {flaw}"
        return
    yield f"  text      {_tell_texts(policy, size, descends=parent is not None)}"
    yield f"  measures  {len(checks)} checks in {_tell_arms(policy, checks, descends=parent is not None)}"
    yield f"  memory    {_tell_memory(policy, checks, size, above, descends=parent is not None)}"


def _size(model: ModelPolicy) -> Size | None:

    return size_checkpoint(model.model_copy(update={"source": find_shipped(model.source)}))


def _find_flaw(model: ModelPolicy, size: Size | None) -> str | None:
    """Return what is wrong with a checkpoint's weights, as far as headers tell; of one on the hub nothing."""
    if size is None:
        return None
    local = model.model_copy(update={"source": find_shipped(model.source), "manifest": None})
    flaw = next((flaw for flaw in lint_headers(local).flaws if flaw.serious), None)
    return None if flaw is None else f"{flaw.where}: {flaw.found}"


def _tell_files(model: ModelPolicy, size: Size | None) -> str:
    if size is None:
        return f"{model.source}: not here yet, it would be fetched from the hub"
    files = "1 file" if size.files == 1 else f"{size.files} files"
    stored = "plain weights" if size.method == "plain" else f"weights stored as {size.method}"
    return f"{model.source}: {files}, {write_bytes(size.stored)}, {stored}"


def _tell_texts(policy: Policy, size: Size | None, *, descends: bool) -> str:
    texts = (policy.corpus, *(policy.descent.texts if descends else ()))
    windows = [_find_window(text, size) for text in texts]
    pairs = zip(texts, windows, strict=True)
    return "; ".join(f"{text.source}, at most {text.windows} windows of {window} tokens" for text, window in pairs)


def _find_window(text: CorpusPolicy, size: Size | None) -> int:

    if text.window is not None:
        return text.window
    natural = read_corpus(text).natural_window if text.source == SPECIMEN else None
    longest = min(_LONGEST_WINDOW, (size and size.positions) or _LONGEST_WINDOW)
    return min(natural or longest, longest)


def _tell_arms(policy: Policy, checks: list[str], *, descends: bool) -> str:
    arms = count_arms(policy, checks, descends=descends)
    if not descends:
        return f"about {arms} arms, if there is one super weight"
    again = policy.descent.modules
    prompts = len(policy.descent.prompt_tokens) + 1
    words = f"{arms} arms, {again} more with single modules put back where quality fails, {prompts} continuations"
    return (
        f"{words} of each, {len(policy.descent.lm_eval)} tasks" if policy.descent.lm_eval else f"{words} of each"
    )


def count_arms(policy: Policy, checks: list[str], *, descends: bool) -> int:
    """Count the arms that are measured on the first text, with one super weight.

    Args:
        policy: The policy.
        checks: Ids of the checks.
        descends: Whether the model has a parent: then it is measured beside it, and with its super weights put
            back.
    """
    if descends:
        return 3
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


def _tell_memory(
    policy: Policy, checks: list[str], size: Size | None, above: Size | None, *, descends: bool
) -> str:
    if size is None or (descends and above is None):
        return "not known before the files are here"
    weights = estimate_weights(size, above)
    arms = count_arms(policy, checks, descends=descends)
    streams = max(
        arms * text.windows * _find_window(text, size) * (size.hidden or 0) * size.width
        for text in (policy.corpus, *(policy.descent.texts if descends else ()))
    )
    total = write_bytes(weights + streams)
    return f"about {total}: weights {write_bytes(weights)}, hidden states of all arms {write_bytes(streams)}"


def estimate_weights(size: Size, above: Size | None) -> int:
    """Return the bytes of weights that are in memory at once, at most.

    A model by itself is there whole, with a copy of the largest layer that an arm changes. Of a parent first the
    whole is asked and let go; then one layer of it at a time comes back beside the model.

    Args:
        size: Of the model.
        above: Of its parent; `None` without one.
    """
    own = size.memory + size.layer
    return own if above is None else max(above.memory, own + above.layer)


def write_bytes(count: int) -> str:
    """Write a number of bytes for reading, such as `2.5 GB`; a kilobyte is 1000 bytes."""
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{count} bytes" if unit == 0 else f"{amount:.3g} {_UNITS[unit]}"
