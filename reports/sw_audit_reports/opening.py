"""What stands first on the page: what was audited, the verdict, the sentence that matters, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.standing import FEW_MODELS, conclude_model, list_open, rank_worst_first
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.elements import Badge, Cell, Words, code, make_cells, split_code
from sw_audit_reports.sections import Context, summarize_model
from sw_audit_reports.text import count, format_number, join_words
from sw_audit_reports.verdicts import Advice, conclude_record, is_compared, list_advice, summarize_record, tally

COMPARED = Badge("skipped", "Compared")
_MEANS = {
    Status.PASS: "Every gate that could be judged passed: nothing was found that should stop a release.",
    Status.FAIL: "A gate failed. A gate is a check that one would stop a release for.",
    Status.INCONCLUSIVE: "What was measured does not decide it. That is not a pass.",
}
_LISTED = 3
"""How many pieces of advice, and names of parents, are given at the top."""


@dataclass(frozen=True)
class Step:
    """Something to do: about which models, and where on the page the reason stands."""

    models: tuple[Cell, ...]
    words: tuple[Cell, ...]


@dataclass(frozen=True)
class Banner:
    """A verdict and what there is to know of it at first sight.

    Attributes:
        badge: The verdict.
        sentence: The one sentence that matters.
        tally: How many checks ended how.
        pointers: Links to the gates that did not pass.
        audited: What was audited.
        meaning: What the verdict means.
        steps: What to do, the most pressing first.
        more: How many further gates say what to do.
    """

    badge: Badge
    sentence: tuple[Cell, ...]
    tally: list[Badge]
    pointers: list[Cell] = field(default_factory=list)
    audited: tuple[Cell, ...] = ()
    meaning: str = ""
    steps: tuple[Step, ...] = ()
    more: int = 0


def describe_audited(record: Record) -> tuple[Cell, ...]:
    """Say what was audited: of one model its kind, size, digest, and what it is held against and measured on."""
    models = record.models
    if len(models) == 1 and isinstance(models[0], ModelResult):
        return make_cells(_describe_model(models[0]))
    if not models:
        return ()
    named = [model.id for model in models[:FEW_MODELS]]
    if len(models) > FEW_MODELS:
        named.append(f"{format_number(len(models) - FEW_MODELS)} more")
    held = list(dict.fromkeys(filter(None, map(_name_held, record.results))))
    against = f", held against {join_words(held)}" if 0 < len(held) <= _LISTED else ""
    return make_cells([f"{join_words(named)}{against}."])


def _describe_model(result: ModelResult) -> Words:
    model, protocol = result.model, result.protocol
    size = f"{count(model.layers, 'decoder layer')} and {format_number(model.parameters, 3)} parameters"
    words: list[str | Cell] = [f"A {model.family} model of {size}, measured in {model.dtype}"]
    words += [", digest ", code(model.digest[:12])] if model.digest else []
    held = _name_held(result)
    words.append(f"; held against {held}" if held else "")
    text = f"{count(protocol.windows, 'window')} of {count(protocol.window, 'token')} of {protocol.corpus.name}"
    return [*words, f"; the text is at most {text}."]


def _name_held(result: ModelResult) -> str:
    if result.descent is not None:
        return f"the parent {result.descent.parent.id}"
    return "" if result.baseline is None else f"the baseline {result.baseline.name}"


def explain_verdict(record: Record) -> str:
    """Say what the verdict of a record means."""
    failures, verdict = record.failures, conclude_record(record)
    if verdict is Status.FAIL and not any(one.status is Status.FAIL for one in _list_all_open(record)):
        return f"{count(len(failures), 'model')} could not be audited."
    return _MEANS.get(verdict, "")


def _list_all_open(record: Record) -> Iterable[Verdict]:
    return (verdict for model in record.models for verdict in list_open(model))


def open_record(
    record: Record, sentence: Words, anchors: Sequence[str], pointers: Sequence[Cell], *, compared: bool
) -> Banner:
    """Build the top of the page.

    Args:
        record: The record of an audit.
        sentence: The one sentence that matters.
        anchors: Ids of the models' parts of the page, in the order of the record.
        pointers: Links to the gates that did not pass.
        compared: Whether quantizers were compared, and nothing was judged.
    """
    if compared:
        cells, meaning = make_cells(sentence), "Quantizers were compared, and nothing was judged."
        return Banner(COMPARED, cells, [], audited=describe_audited(record), meaning=meaning)
    advice = list_advice(record)
    steps = tuple(_make_step(record, one, anchors) for one in advice[:_LISTED])
    others = {(model.id, one.check) for model in record.models for one in list_open(model)}
    others -= {(model, one.check) for one in advice[:_LISTED] for model in one.models}
    return Banner(
        Badge.of(conclude_record(record)),
        make_cells(sentence),
        tally(record.verdicts),
        list(pointers),
        describe_audited(record),
        explain_verdict(record),
        steps,
        len(others),
    )


def _make_step(record: Record, advice: Advice, anchors: Sequence[str]) -> Step:
    links = []
    for model, anchor in zip(record.models, anchors, strict=True):
        if model.id in advice.models and len(record.models) > 1:
            links.append(Cell(model.id, href=anchor))
    return Step(tuple(links), split_code(advice.words))


def open_model(context: Context, pointers: Sequence[Cell]) -> Banner:
    """Build the banner of one model of several."""
    result = context.result
    badge = COMPARED if is_compared(result) else Badge.of(conclude_model(result))
    return Banner(badge, make_cells(summarize_model(context)), tally(result.verdicts), list(pointers))


def summarize_worst(record: Record) -> Words:
    """Say how the audit of several models ended, and in a sentence what the worst of them comes to."""
    words: list[str | Cell] = [summarize_record(record)]
    for place in rank_worst_first(record.models):
        model = record.models[place]
        if isinstance(model, ModelFailure) or not list_open(model):
            continue
        more = summarize_model(Context(record.find_part(model.id), model, ""))
        return [*words, " The worst is ", code(model.id), ". ", *more] if more else words
    return words
