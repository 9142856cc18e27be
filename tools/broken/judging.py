"""What the gates say of broken and of sound checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.checks.critical_scalars_retained import critical_scalars_retained
from sw_audit.checks.explain import BAD_INPUT, conclude
from sw_audit.checks.registry import Need, find_checks
from sw_audit.errors import InputError
from sw_audit.files.compare import compare_files
from sw_audit.policy.policy import CorpusPolicy, DescentPolicy, Policy
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status
from sw_audit.runner.run import compose_record, judge_model, run
from sw_audit.runner.weights import examine_files
from tools.broken import formats, settings, tensors, tokenizers
from tools.broken.catalogue import Broken
from tools.broken.copies import Copy
from tools.broken.sound import Form, Workshop

HOLDERS = (settings, tokenizers, tensors, formats)
"""The modules that put their ways into the catalogue when they are imported."""


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint.

    Attributes:
        code: The exit code that an audit ends with.
        failed: Ids of the gates that fail.
        missed: Ids of the checks that should have failed and did not; of a sound one there are none.
        because: What the first failing gate says, or the line with which the model is refused.
        seconds: Time spent.
    """

    code: int
    failed: tuple[str, ...]
    missed: tuple[str, ...]
    because: str
    seconds: float


def list_static() -> list[str]:
    """List the checks that read files alone."""
    return [check.id for check in find_checks().values() if check.static]


def judge_broken(workshop: Workshop, way: Broken, checks: Collection[str] | None = None) -> Outcome:
    """Break a copy of a form of a model in one way, and audit it by some checks, or by all of its gates."""
    form = workshop.find(way.form)
    with _copied(workshop, form) as copy:
        way.damage(copy)
        return _judge(_ask(workshop, form, copy, way.caught_by), checks, way.caught_by)


def judge_broken_files(workshop: Workshop, way: Broken) -> Outcome:
    """Break a copy likewise, and judge its files by the checks that need nothing else; nothing is opened.

    Raises:
        InputError: If they cannot be read.
    """
    form, begun = workshop.find(way.form), time.monotonic()
    with _copied(workshop, form) as copy:
        way.damage(copy)
        policy = _ask(workshop, form, copy, way.caught_by)
        [model] = policy.models
        parent = policy.find_parent(model) or model
        failure = examine_files(model)
        if not isinstance(failure, ModelFailure):
            files = compare_files(model, parent, policy, [*Need])
            failure = ModelFailure(model=model.id, message="not opened", weights=failure, files=files)
        record = compose_record([judge_model(failure, policy, list_static())], policy)
    return _conclude(record, way.caught_by, begun)


def judge_sound(workshop: Workshop, form: Form, checks: Collection[str] | None = None) -> Outcome:
    """Audit a copy of a form of a model by some checks, or by all of its gates."""
    with _copied(workshop, form) as copy:
        return _judge(_ask(workshop, form, copy), checks)


@contextmanager
def _copied(workshop: Workshop, form: Form) -> Iterator[Copy]:
    folder = workshop.place / "copy"
    try:
        yield Copy(workshop.make(form.name), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ask(workshop: Workshop, form: Form, copy: Copy, expected: Sequence[str] = ()) -> Policy:
    """Ask for little text, and for the search for critical scalars only where it has to find something."""
    return Policy(
        models=(workshop.describe(form, copy.folder),),
        corpus=CorpusPolicy(windows=8),
        descent=DescentPolicy(
            prompt_tokens=(5,),
            new_tokens=16,
            long_new_tokens=16,
            modules=0,
            layers=0,
            may_differ=form.may_differ,
        ),
        effort="standard" if critical_scalars_retained.id in expected else "quick",
    )


def _judge(policy: Policy, checks: Collection[str] | None, expected: Sequence[str] = ()) -> Outcome:
    begun = time.monotonic()
    try:
        with quiet_libraries():
            record = run(policy, checks=checks)
    except InputError as error:
        return Outcome(BAD_INPUT, (), tuple(expected), str(error), time.monotonic() - begun)
    return _conclude(record, expected, begun)


def _conclude(record: Record, expected: Sequence[str], begun: float) -> Outcome:
    failed = [verdict for verdict in record.verdicts if verdict.level == "gate" and verdict.status is Status.FAIL]
    names = tuple(verdict.check for verdict in failed)
    missed = tuple(check for check in expected if check not in names)
    because = failed[0].because if failed else ""
    return Outcome(conclude([record]), names, missed, because, time.monotonic() - begun)
