"""The verdict in one sentence, taken from what was found and not from what was hoped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sw_audit.record.arm import BASELINE, PRUNED
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.verdict import Status, Verdict, worst_status
from sw_audit_reports.page import Badge, Cell
from sw_audit_reports.text import count, format_interval, format_number, join_words, spell

_ENDED = {
    Status.PASS: "passed",
    Status.FAIL: "failed",
    Status.INCONCLUSIVE: "inconclusive",
    Status.SKIPPED: "skipped",
}
_NAMED_AT_MOST = 2


def conclude_model(record: Record, model_id: str) -> Status:
    """Return the worst of a model's verdicts; a model that could not be audited fails.

    Where nothing was decided that is INCONCLUSIVE: it must not look like a pass. What somebody answers for counts
    as nothing, of a model that could not be audited as well.
    """
    verdicts = [verdict for verdict in record.verdicts if verdict.model == model_id]
    status = worst_status(verdict.status for verdict in verdicts if verdict.waiver is None)
    if any(failure.model == model_id for failure in record.failures) and not any(one.waiver for one in verdicts):
        return Status.FAIL
    return Status.INCONCLUSIVE if status is Status.SKIPPED else status


def list_model_ids(record: Record) -> list[str]:
    """List every model the record speaks of, also those that could not be audited."""
    return [model.id for model in record.models]


def conclude_record(record: Record) -> Status:
    """Return the worst of all models; a record of no model decides nothing."""
    status = worst_status(conclude_model(record, model_id) for model_id in list_model_ids(record))
    return Status.INCONCLUSIVE if status is Status.SKIPPED else status


def tally(verdicts: Iterable[Verdict]) -> tuple[Badge, ...]:
    """Count how many ended how, leaving out what did not happen; what somebody answers for is counted apart."""
    told = list(verdicts)
    counted = Counter(verdict.status for verdict in told if verdict.waiver is None)
    badges = [
        Badge(status.value, f"{format_number(counted[status])} {word}")
        for status, word in _ENDED.items()
        if counted[status]
    ]
    waived = sum(verdict.waiver is not None for verdict in told)
    return (*badges, *([Badge(Status.SKIPPED.value, f"{format_number(waived)} waived")] if waived else []))


def tell_record(record: Record) -> tuple[Cell, ...]:
    """Say in a sentence how a run of several models ended, or what was found in a run of one."""
    ids = list_model_ids(record)
    if len(record.results) == 1 and len(ids) == 1:
        [result] = record.results
        return tell_model(result, result.verdicts)
    if not ids:
        return (Cell("No model was audited."),)
    unread = {failure.model for failure in record.failures}
    counted = Counter(conclude_model(record, model_id) for model_id in ids if model_id not in unread)
    ended = [f"{format_number(counted[status])} {word}" for status, word in _ENDED.items() if counted[status]]
    ended += [f"{format_number(len(unread))} could not be audited"] if unread else []
    return (Cell(f"Of {count(len(ids), 'model')}, {join_words(ended)}."),)


def tell_model(evidence: ModelResult, verdicts: Sequence[Verdict]) -> tuple[Cell, ...]:
    """Say in a sentence what was found in one model and what it does.

    Args:
        evidence: What was found and measured.
        verdicts: The verdicts on this model.
    """
    location = evidence.location
    if location.outcome is Outcome.NONE:
        return (Cell(f"No super weight was found: {location.because.rstrip('.')}."),)
    if location.outcome is Outcome.DISTRIBUTED:
        reason = location.because.rstrip(".")
        return (Cell(f"A massive activation was found, but no handful of scalars explains it: {reason}."),)
    number = len(location.super_weights)
    single = number == 1
    named = _name_coordinates(evidence)
    verdict = next((one for one in verdicts if one.check == "prune-collapses"), None)
    effect = _tell_effect(evidence, verdict)
    if verdict is not None and verdict.status is Status.PASS and effect:
        head = f"{spell(number)} {'scalar carries' if single else 'scalars carry'} this model: zeroing "
        return (Cell(head), *named, Cell(f" {effect}."))
    found = f"{spell(number)} super {'weight was' if single else 'weights were'} located"
    if effect is None:
        return (
            Cell(f"{found}, "),
            *named,
            Cell(f"; what zeroing {'it' if single else 'them'} does is not known."),
        )
    if verdict is not None and verdict.status is Status.FAIL:
        return (Cell(f"{found}, but zeroing "), *named, Cell(f" only {effect}."))
    return (Cell(f"{found}: zeroing "), *named, Cell(f" {effect}."))


def _name_coordinates(evidence: ModelResult) -> tuple[Cell, ...]:
    weights = evidence.location.super_weights
    if len(weights) > _NAMED_AT_MOST:
        layers = sorted({weight.layer for weight in weights})
        where = join_words([format_number(layer) for layer in layers])
        return (Cell(f"all of them (in {'layer' if len(layers) == 1 else 'layers'} {where})"),)
    cells = [Cell(str(weight.address), code=True) for weight in weights]
    return (cells[0],) if len(cells) == 1 else (cells[0], Cell(" and "), cells[1])


def _tell_effect(evidence: ModelResult, verdict: Verdict | None) -> str | None:
    """Say what zeroing does to perplexity, from the verdict's figure or else from the measurements."""
    pruned, baseline = (evidence.measured(name) for name in (PRUNED, BASELINE.name))
    if pruned is None or baseline is None or baseline.loss.perplexity is None:
        return None
    if pruned.loss.perplexity is None:
        return "leaves no finite perplexity"
    if verdict is not None and verdict.observed is not None:
        ratio, interval = verdict.observed, format_interval(verdict.low, verdict.high)
    else:
        ratio, interval = pruned.loss.perplexity / baseline.loss.perplexity, ""
    return f"multiplies perplexity by {format_number(ratio)} {interval}".rstrip()
