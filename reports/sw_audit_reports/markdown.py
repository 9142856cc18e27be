"""The record as Markdown that is short enough for a comment on a pull request, and for the summary of a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sw_audit.checks.explain import explain_verdict, list_skipped, list_unproved, list_waived
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.standing import (
    FEW_MODELS,
    conclude_model,
    find_deciding,
    group_by_protocol,
    list_open,
    rank_worst_first,
)
from sw_audit.record.verdict import Paste, Status, Verdict
from sw_audit_reports.elements import Badge, Words, split_code
from sw_audit_reports.markdown_text import escape, write_fence, write_name, write_row, write_words
from sw_audit_reports.opening import Banner, open_record, summarize_worst
from sw_audit_reports.reproduce import find_asked, write_command
from sw_audit_reports.sections import Context, summarize_model
from sw_audit_reports.sections.checks import write_measured
from sw_audit_reports.text import NOTHING, count, format_number
from sw_audit_reports.verdicts import Advice, is_comparison, list_advice, tally

LONGEST = 60_000
"""Characters at most: GitHub takes 65,536 in a comment, and who posts it has something to add."""
_SHOWN = 24_000
"""Characters at most that are not folded."""
_FOLDED = 45_000
"""Characters at most when the gates are told in full, so that there is room for what comes after."""
_MODELS, _GATES, _ADVICE = 20, 5, 3
_HEAD = ("Model", "Verdict", "Gate", "Measured", "Limit")


def render_markdown(record: Record) -> str:
    """Render the record as Markdown: verdict, the sentence that matters, a table, what to do; the rest is folded.

    It has at most 60,000 characters. Of many models the worst come first, and it is said how many are left out.
    No text of the record links, mentions, or is markup.

    Args:
        record: The record of an audit.
    """
    compared, anchors = is_comparison(record), [""] * len(record.models)
    banner = open_record(record, _summarize(record), anchors, (), compared=compared)
    page = _Page()
    page.add(f"## sw-audit: {banner.badge.word}\n\n{_write_top(banner)}")
    if not compared:
        _add_table(page, record)
        _add_advice(page, record)
    _add_folds(page, record)
    return page.text


class _Page:
    """What is written so far."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, part: str, longest: int = LONGEST) -> bool:
        """Add a part where there is room for it, and say whether there was."""
        fits = len(self.text) + len(part) <= longest
        self.text += part if fits else ""
        return fits


def _summarize(record: Record) -> Words:
    if len(record.models) == 1 and record.results:
        return summarize_model(Context(record.parts[0], record.results[0], ""))
    return summarize_worst(record)


def _write_top(banner: Banner) -> str:
    told = ", ".join(badge.word for badge in banner.tally)
    sentence, audited = write_words(banner.sentence), write_words(banner.audited, 500)
    parts = [f"**{banner.meaning}**" if banner.meaning else "", sentence, f"Audited: {audited}" if audited else ""]
    parts += [f"Checks: {told}." if told else ""]
    return "".join(f"{part.strip()}\n\n" for part in parts if part)


def _add_table(page: _Page, record: Record) -> None:
    ranked = [record.models[place] for place in rank_worst_first(record.models)]
    if not ranked:
        return
    gates = 1 if len(ranked) > FEW_MODELS else _GATES
    shown: list[ModelResult | ModelFailure] = []
    groups = group_by_protocol(ranked)
    for group in groups:
        models = [ranked[place] for place in group if place < _MODELS]
        rows = {model.id: "".join(map(write_row, _list_rows(model, gates))) for model in models}
        head = _write_head(models[0], many=len(groups) > 1) if models else ""
        if not models or not page.add(head + rows.pop(models[0].id), _SHOWN):
            continue
        shown.append(models[0])
        for model in models[1:]:
            if not page.add(rows[model.id], _SHOWN):
                break
            shown.append(model)
        page.add("\n")
    if left := [model for model in ranked if model not in shown]:
        held = sum(conclude_model(model) is not Status.PASS for model in left)
        passing = f"{format_number(held)} of them do not pass" if held else "all of them pass"
        page.add(f"{count(len(left), 'more model')} left out, {passing}; the record holds them.\n\n")


def _write_head(model: ModelResult | ModelFailure, *, many: bool) -> str:
    """Write the head of a table; of several it says which protocol the figures are of."""
    told = "Not audited:" if isinstance(model, ModelFailure) else f"Protocol {escape(str(model.protocol), 500)}:"
    head = write_row(_HEAD) + write_row(["---", "---", "---", "---:", "---:"])
    return f"{told}\n\n{head}" if many else head


def _list_rows(model: ModelResult | ModelFailure, most: int) -> Iterator[list[str]]:
    """List the gates that did not pass, the worst first; else how the checks ended."""
    held = list_open(model)
    deciding = [one for one in (find_deciding(model),) if one is not None]
    gates = [*deciding, *(one for one in held if one not in deciding)]
    missing = isinstance(model, ModelFailure) and model.stopped is None
    verdict = "Not audited" if missing else Badge.of(conclude_model(model)).word
    head = [write_name(model.id), f"**{verdict}**"]
    if not gates:
        told = model.message if isinstance(model, ModelFailure) else _tell(model.verdicts)
        yield [*head, escape(told, 200) or NOTHING, NOTHING, NOTHING]
    for place, gate in enumerate(gates[:most]):
        observed, interval, limit = write_measured(gate, gate)
        figure = observed if interval == NOTHING else f"{observed} {interval}"
        word = "" if gate.status is Status.FAIL else f" ({Badge.of(gate.status).word.lower()})"
        rest = f" and {format_number(len(gates) - most)} more" if place == most - 1 and len(gates) > most else ""
        named = f"{write_name(gate.check)}{word}{rest}"
        yield [*(head if place == 0 else ["", ""]), named, figure, limit]


def _tell(verdicts: Iterable[Verdict]) -> str:
    return ", ".join(badge.word for badge in tally(verdicts))


def _add_advice(page: _Page, record: Record) -> None:
    advice = list_advice(record)
    if not advice:
        return
    page.add("### What to do\n\n")
    others = {(model.id, gate.check) for model in record.models for gate in list_open(model)}
    pasted: set[Paste] = set()
    for one in advice[:_ADVICE]:
        told = one._replace(paste=tuple(paste for paste in one.paste if paste not in pasted))
        if page.add(_write_advice(told, len(record.models)), _SHOWN):
            others -= {(model, one.check) for model in one.models}
            pasted.update(one.paste)
    if others:
        page.add(f"{count(len(others), 'more gate says', 'more gates say')} below what to do.\n\n")


def _write_advice(advice: Advice, models: int) -> str:
    named = ", ".join(write_name(model) for model in advice.models[:_MODELS])
    more = len(advice.models) - _MODELS
    about = f"{named}{f' and {format_number(more)} more' if more > 0 else ''}: " if models > 1 else "**To do:** "
    pasted = "".join(f"**Paste into** {escape(one.where)}:\n\n{write_fence(one.text)}\n" for one in advice.paste)
    return f"{about}{write_words(split_code(advice.words))}\n\n{pasted}"


def _add_folds(page: _Page, record: Record) -> None:
    ranked = [record.models[place] for place in rank_worst_first(record.models)]
    gates = [verdict for model in ranked for verdict in list_open(model)]
    waived, laws = list_waived(record.verdicts), list_unproved(record.verdicts)
    skipped, run = list_skipped(record.verdicts), _list_commands(record, ranked)
    full = (f"{explain_verdict(verdict)}\n" for verdict in gates)
    _fold(page, "Every gate that did not pass, in full", full, len(gates), _FOLDED)
    _fold(page, f"{count(len(waived), 'verdict')} waived", waived, len(waived))
    _fold(page, "Laws that do not hold, or are undecided: findings and no defects", laws, len(laws))
    _fold(page, "What was skipped", skipped, len(skipped))
    _fold(page, "How it was run, and how to repeat what decided", run, len(run))


def _fold(page: _Page, title: str, texts: Iterable[str], number: int, longest: int = LONGEST) -> None:
    """Fold texts into a block of code, as many as there is room for, and say how many are left out."""
    kept: list[str] = []
    folded = _write_fold(title, kept, number) if number else ""
    for text in texts:
        kept.append(text)
        tried = _write_fold(title, kept, number - len(kept))
        if len(page.text) + len(tried) > longest:
            break
        folded = tried
    page.add(folded)


def _write_fold(title: str, texts: Sequence[str], more: int) -> str:
    block = write_fence("\n".join(texts)) if texts else ""
    told = f"\n{format_number(more)} more left out; the record holds them.\n" if more else ""
    return f"<details><summary>{title}</summary>\n\n{block}{told}\n</details>\n\n"


def _list_commands(record: Record, models: Sequence[ModelResult | ModelFailure]) -> list[str]:
    commands = []
    for gate in filter(None, map(find_deciding, models[:_MODELS])):
        policy = record.find_part(gate.model).policy
        source = find_asked(policy, gate.model, gate.model).source
        commands.append(write_command(source, gate.check, policy, gate.model))
    return list(dict.fromkeys([*map(_tell_audit, record.parts), *commands]))


def _tell_audit(audit: Record) -> str:
    tool, policy = audit.tool, audit.policy
    return f"{tool.name} {tool.version}, {audit.created}, {policy.effort} effort, seed {policy.seed}"
