"""What the gates say of broken and of sound checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.checks.registry import find_checks
from sw_audit.errors import InputError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, DescentPolicy, Policy
from sw_audit.record.verdict import Status
from sw_audit.runner.explain import BAD_INPUT, conclude
from sw_audit.runner.run import run
from tools.broken import formats, settings, tensors, tokenizers
from tools.broken.catalogue import CATALOGUE, Broken
from tools.broken.copies import Copy
from tools.broken.sound import FORMS, Form, Workshop

HOLDERS = (settings, tokenizers, tensors, formats)
"""The modules that put their ways into the catalogue when they are imported."""


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint.

    Attributes:
        name: Of the way it was broken, or of the form.
        code: The exit code that an audit ends with.
        failed: Ids of the gates that fail.
        missed: Ids of the checks that should have failed and did not; of a sound one there are none.
        because: What the first failing gate says, or the line with which the model is refused.
        seconds: Time spent.
    """

    name: str
    code: int
    failed: tuple[str, ...]
    missed: tuple[str, ...]
    because: str
    seconds: float


def list_static() -> list[str]:
    """List the checks that read files alone."""
    return [check.id for check in find_checks().values() if check.static]


def judge(
    name: str,
    model: ModelPolicy,
    checks: Collection[str] | None,
    expected: Sequence[str] = (),
    may_differ: tuple[str, ...] = (),
) -> Outcome:
    """Audit a model beside its parent, quickly, by some checks or by all of its gates."""
    begun = time.monotonic()
    policy = Policy(
        models=(model,),
        corpus=CorpusPolicy(windows=8),
        descent=DescentPolicy(
            prompt_tokens=(5,), new_tokens=16, long_new_tokens=16, modules=0, layers=0, may_differ=may_differ
        ),
        effort="quick",
    )
    try:
        with quiet_libraries():
            record = run(policy, checks=checks)
    except InputError as error:
        return Outcome(name, BAD_INPUT, (), tuple(expected), str(error), time.monotonic() - begun)
    failed = [verdict for verdict in record.verdicts if verdict.level == "gate" and verdict.status is Status.FAIL]
    names = tuple(verdict.check for verdict in failed)
    missed = tuple(check for check in expected if check not in names)
    because = failed[0].because if failed else ""
    return Outcome(name, conclude([record]), names, missed, because, time.monotonic() - begun)


def judge_broken(workshop: Workshop, way: Broken, checks: Collection[str] | None = None) -> Outcome:
    """Break a copy of a form of a model in one way, and audit it."""
    form = workshop.find(way.form)
    with _copied(workshop, form) as copy:
        way.damage(copy)
        return judge(way.name, workshop.describe(form, copy.folder), checks, way.caught_by, form.may_differ)


def judge_sound(workshop: Workshop, form: Form, checks: Collection[str] | None = None) -> Outcome:
    """Audit a copy of a form of a model."""
    with _copied(workshop, form) as copy:
        return judge(form.name, workshop.describe(form, copy.folder), checks, (), form.may_differ)


@contextmanager
def _copied(workshop: Workshop, form: Form) -> Iterator[Copy]:
    folder = workshop.place / "copy"
    try:
        yield Copy(workshop.make(form.name), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def list_ways(kinds: Collection[str] = ()) -> Iterator[Broken]:
    """Yield all ways to break a checkpoint whose form can be made here, in the order of their kinds."""
    for way in CATALOGUE.values():
        if not FORMS[way.form].missing and (not kinds or way.kind in kinds):
            yield way
