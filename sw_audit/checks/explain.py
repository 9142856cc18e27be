"""How verdicts are told in text: figures, limits, a table, a full explanation, counts, and what a run comes to."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sw_audit.checks.estimate import write_number
from sw_audit.checks.registry import find_checks
from sw_audit.printable import printable, printable_lines
from sw_audit.record.labels import label_evidence, label_status
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.standing import conclude_model, find_deciding, group_by_protocol, rank_worst_first
from sw_audit.record.verdict import Finding, Status, Verdict

PASSED, FAILED, BAD_INPUT, INCONCLUSIVE = 0, 1, 2, 3
"""How `sw-audit audit` exits."""

_ENDINGS = {PASSED: "PASSED", FAILED: "FAILED", INCONCLUSIVE: "INCONCLUSIVE"}
TABLE_HEAD = ("model", "check", "status", "observed [low, high]", "limit")
MODELS_HEAD = ("model", "verdict", "fail", "inconclusive", "pass", "decided by", "observed [low, high]", "limit")
WAIVED = "waived"

_PROPERTIES = (
    "check", "model", "status", "quantity", "observed", "low", "high", "limit", "because", "remedy", "protocol",
    "waiver", "level", "known", "evidence",
)  # fmt: skip
_LABEL_WIDTH = 10
_LINE_WIDTH = 100
_SHOWN_COORDINATES = 8
_SHOWN_MODELS = 20
_COUNTED = ("pass", "fail", "inconclusive", "holds", "does not hold", "undecided", "skipped", WAIVED)


def write_figure(figure: Verdict | Finding) -> str:
    """Write what was measured with its interval, such as `1.72 [1.61, 1.84]`; nothing if there is no figure."""
    if figure.observed is None:
        return ""
    if figure.low is None and figure.high is None:
        return write_number(figure.observed)
    low, high = ("unbounded" if end is None else write_number(end) for end in (figure.low, figure.high))
    return f"{write_number(figure.observed)} [{low}, {high}]"


def write_limit(figure: Verdict | Finding) -> str:
    """Write what a figure was held against, with all its digits; nothing if it is only reported."""
    return "" if figure.limit is None else f"{figure.limit:.12g}"


def describe_model(result: ModelResult) -> list[str]:
    """Say what a model is, where its super weights are, and how its figures were measured; a line each."""
    model, location = result.model, result.location
    lines = [f"{model.family}, {model.layers} layers, {model.parameters:,} parameters, {model.digest[:12]}"]
    lines += [
        f"super weight {weight.address} = {weight.value:.4g}, share {weight.share:.3f}"
        for weight in location.super_weights
    ] or [f"no super weight: {location.outcome}, {location.because}"]
    if result.critical is not None:
        costliest = result.critical.costliest
        lines.append(f"{result.critical.summary}{f'; {costliest.address} costs most' if costliest else ''}")
    lines += [] if result.memory is None else [f"memory {result.memory}"]
    return [*lines, f"protocol {result.protocol}", *(f"note: {note}" for note in result.notes)]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows out as lines, so that columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def name_outcome(verdict: Verdict) -> str:
    """Return the status of a gate, how a law ended, or `waived`."""
    return label_status(verdict) if verdict.waiver is None else WAIVED


def make_row(verdict: Verdict) -> tuple[str, ...]:
    """Write a verdict as a row under `TABLE_HEAD`."""
    status = f"{label_status(verdict).upper()}{'' if verdict.waiver is None else ' (waived)'}"
    row = verdict.model, verdict.check, status, write_figure(verdict) or "-", write_limit(verdict) or "-"
    return tuple(map(printable, row))


def list_worst(models: Sequence[ModelResult | ModelFailure]) -> tuple[list[list[tuple[str, ...]]], str]:
    """Write the worst of many models that do not pass as tables under `MODELS_HEAD`, and a line on all others.

    There is a table for each protocol.
    """
    ranked = [models[place] for place in rank_worst_first(models)]
    held = [model for model in ranked if conclude_model(model) is not Status.PASS]
    shown, passed = held[:_SHOWN_MODELS], len(models) - len(held)
    parts = [f"{len(held) - len(shown)} more do not pass"] if len(held) > len(shown) else []
    tables = [[_make_model_row(shown[place]) for place in group] for group in group_by_protocol(shown)]
    return tables, ", ".join([*parts, f"{passed} of {len(models)} models pass"])


def _make_model_row(model: ModelResult | ModelFailure) -> tuple[str, ...]:
    counts = Counter(name_outcome(verdict) for verdict in model.verdicts if verdict.level == "gate")
    decided = find_deciding(model)
    figures = ("-",) * 3 if decided is None else (decided.check, write_figure(decided), write_limit(decided))
    missing = isinstance(model, ModelFailure) and model.stopped is None
    status = "NOT AUDITED" if missing else conclude_model(model).upper()
    numbers = (str(counts[name]) for name in MODELS_HEAD[2:5])
    return tuple(printable(part or "-") for part in (model.id, status, *numbers, *figures))


def count_verdicts(verdicts: Iterable[Verdict]) -> str:
    """Write how many gates and laws ended how, such as `9 pass, 1 fail; laws: 7 holds, 1 undecided`."""
    listed = list(verdicts)
    tallies = {
        head: _count([verdict for verdict in listed if verdict.level == level])
        for head, level in (("", "gate"), ("laws: ", "law"))
    }
    return "; ".join(f"{head}{tally}" for head, tally in tallies.items() if tally)


def write_ending(verdicts: Sequence[Verdict], code: int) -> str:
    """Say how an audit ended that exits with a code, such as `FAILED: 9 pass, 1 fail`."""
    undecided = all(verdict.status is Status.SKIPPED for verdict in verdicts)
    nothing = code == INCONCLUSIVE and undecided
    ending = "NOTHING AUDITED" if nothing else _ENDINGS.get(code, "NOT COMPLETE")
    return f"{ending}: {count_verdicts(verdicts)}" if verdicts else ending


def _count(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(name_outcome(verdict) for verdict in verdicts)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in _COUNTED if counts[outcome])


def list_waived(verdicts: Iterable[Verdict]) -> list[str]:
    """Say who answers for what does not pass, until when, and why; a line each."""
    return [
        printable(f"waived {verdict.model} {verdict.check} {verdict.waiver}")
        for verdict in verdicts
        if verdict.waiver
    ]


def list_unproved(verdicts: Iterable[Verdict]) -> list[str]:
    """Say why laws do not hold or are undecided, and what others measured; a line each."""
    return [
        f"{label_status(verdict)}: {verdict.model} {verdict.check}: {verdict.because}"
        f"{f' Elsewhere: {verdict.known}.' if verdict.known else ''}"
        for verdict in verdicts
        if verdict.level == "law" and verdict.waiver is None
        if verdict.status in (Status.FAIL, Status.INCONCLUSIVE)
    ]


def list_skipped(verdicts: Iterable[Verdict]) -> list[str]:
    """Say why checks do not apply, once for all checks of a model that do not for the same reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.status is Status.SKIPPED:
            reasons.setdefault((verdict.model, verdict.because), []).append(verdict.check)
    return [
        f"skipped {model} {checks[0] if len(checks) == 1 else f'{len(checks)} checks'}: {because}"
        for (model, because), checks in reasons.items()
    ]


def breaches(verdict: Verdict, inconclusive: str) -> bool:
    """Whether a gate fails its test case; of doubts the policy says whether they `fail` or `warn`.

    A law fails nothing, and what is waived does not either.
    """
    doubt = verdict.status is Status.INCONCLUSIVE and inconclusive == "fail"
    return verdict.level == "gate" and verdict.waiver is None and (verdict.status is Status.FAIL or doubt)


def conclude(records: Sequence[Record], *, complete: bool = True) -> int:
    """Return how a program exits after an audit: what could not be done weighs most, then a failure, then a doubt.

    Waived verdicts weigh nothing, and laws neither. Where nothing at all was decided that is a doubt, and so it is
    where the run was stopped, whatever the policy says of doubts. `complete` says whether everything could be
    audited and written.
    """
    if not complete:
        return BAD_INPUT
    verdicts = [verdict for record in records for verdict in record.verdicts]
    if any(breaches(verdict, "warn") for verdict in verdicts):
        return FAILED
    if any(model.stopped is not None for record in records for model in record.models):
        return INCONCLUSIVE
    parts = [part for record in records for part in record.parts]
    if any(breaches(verdict, part.policy.inconclusive) for part in parts for verdict in part.verdicts):
        return INCONCLUSIVE
    return PASSED if any(_decides(verdict) for verdict in verdicts) else INCONCLUSIVE


def _decides(verdict: Verdict) -> bool:
    """Whether a verdict says something: one that is waived does, a doubt about a law does not."""
    doubt = verdict.level == "law" and verdict.status is Status.INCONCLUSIVE
    return verdict.waiver is not None or not (doubt or verdict.status is Status.SKIPPED)


def end_case(verdict: Verdict, inconclusive: str) -> tuple[Literal["pass", "fail", "skip", "xfail"], str]:
    """Return how a verdict ends its test case, and the words for it."""
    if verdict.waiver is not None:
        return "xfail", printable_lines(f"waived {verdict.waiver} ({verdict.status.upper()}: {verdict.because})")
    if breaches(verdict, inconclusive):
        return "fail", explain_verdict(verdict)
    if verdict.status is Status.PASS:
        return "pass", ""
    if verdict.status is Status.FAIL:
        return "xfail", printable_lines(f"{label_status(verdict)}: {verdict.because}")
    doubt = "" if verdict.status is Status.SKIPPED else f"{label_status(verdict).upper()}: "
    return "skip", printable_lines(f"{doubt}{verdict.because}")


def list_properties(verdict: Verdict) -> list[tuple[str, Any]]:
    """Return what the report of a test case carries of a verdict: names, and values of plain JSON types."""
    content = verdict.model_dump(mode="json") | {
        "waiver": verdict.waiver and str(verdict.waiver),
        "evidence": verdict.evidence and label_evidence(verdict.evidence),
    }
    return [(f"sw_audit.{name}", content[name]) for name in _PROPERTIES if content[name] is not None]


def explain_verdict(verdict: Verdict) -> str:
    """Write a verdict that is not a pass: claim, measurement, limit, place, protocol, what to do or paste."""
    check = find_checks().get(verdict.check)
    figure = write_figure(verdict)
    shown = verdict.coordinates[:_SHOWN_COORDINATES]
    hidden = len(verdict.coordinates) - len(shown)
    parts = [
        ("claimed", check.title if check else verdict.check),
        ("measured", f"{verdict.quantity} {figure}".strip() if figure else "no figure, or one that is not finite"),
        ("limit", write_limit(verdict) or "none"),
        ("because", verdict.because),
        *([("known", verdict.known)] if verdict.known else []),
        *(("", f"{finding.label}: {finding.status}, {finding.because}") for finding in _list_breaches(verdict)),
        *(("where" if not number else "", place) for number, place in enumerate(shown)),
        *([("", f"and {hidden} more")] if hidden else []),
        *([("evidence", label_evidence(verdict.evidence))] if verdict.evidence else []),
        *([("protocol", verdict.protocol)] if verdict.protocol else []),
        *([("to do", verdict.remedy)] if verdict.remedy else []),
    ]
    measured = (
        f"{verdict.quantity} {figure}, limit {write_limit(verdict) or 'none'}" if figure else verdict.because
    )
    head = " ".join(f"{label_status(verdict).upper()} {verdict.model} {verdict.check}: {measured}".splitlines())
    # A line stands in the remedy already; several would not be lines there.
    pasted = [f"  {'paste':<{_LABEL_WIDTH}}{one.where}\n{one.text}" for one in verdict.paste if "\n" in one.text]
    return printable_lines("\n".join([head, *(_write_part(label, text) for label, text in parts), *pasted]))


def _list_breaches(verdict: Verdict) -> list[Finding]:
    held = [finding for finding in verdict.findings if finding.status in (Status.FAIL, Status.INCONCLUSIVE)]
    return held if len(verdict.findings) > 1 else []


def _write_part(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        width=_LINE_WIDTH,
        initial_indent=f"  {label:<{_LABEL_WIDTH}}",
        subsequent_indent=" " * (_LABEL_WIDTH + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
