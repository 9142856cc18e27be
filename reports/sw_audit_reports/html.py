"""The record as one HTML file that needs nothing else: no link, no font, and no script that anything rests on."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sw_audit.printable import printable_lines
from sw_audit.record.page_digest import UNKNOWN_DIGEST, seal_page
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.redaction import describe_redactions
from sw_audit.record.standing import FEW_MODELS, conclude_model, group_by_protocol, list_open, rank_worst_first
from sw_audit.record.store import EMBEDDED_ID, embed_record
from sw_audit.record.verdict import Status
from sw_audit_reports.compliance import build_annex
from sw_audit_reports.elements import (
    Badge,
    Cell,
    Table,
    Terms,
    Words,
    code,
    figures,
    make_paragraph,
    make_table,
    make_terms,
    split_code,
    text,
)
from sw_audit_reports.fleet import Entry, FleetContext, list_fleet_sections
from sw_audit_reports.glossary import GLOSSARY
from sw_audit_reports.opening import open_model, open_record, summarize_worst
from sw_audit_reports.reproduce import POLICY_FILE, find_asked, write_comparison_command, write_policy
from sw_audit_reports.sections import Context, list_sections
from sw_audit_reports.sections.checks import describe_check, show_verdict
from sw_audit_reports.sections.descent import describe_descent
from sw_audit_reports.sections.stored import list_flaws
from sw_audit_reports.text import NOTHING, count, format_number
from sw_audit_reports.verdicts import is_comparison, tally

_WHOLE = 3
"""How many of many models, the worst, have all their sections on the page."""
_LARGEST = 4 << 20
"""Characters of the largest record that a page of many models carries."""


def render_html(record: Record) -> str:
    """Render the record as one self-contained HTML page.

    The page carries the record as inert JSON in the element with the id `sw-audit-record`, so that it can be
    rendered again, and a content security policy that lets nothing run and nothing load.

    Of more than eight models the page is of another shape: first a table of models by gates, the worst first,
    then how they have drifted, then each in short, and all sections of the worst three alone. One small script of
    this package may run there, which sorts that table and which nothing needs. A record of over four million
    characters stays outside.

    Args:
        record: The record of an audit.
    """
    many = len(record.models) > FEW_MODELS
    style, script = _read_file("style.css"), _read_file("sort.js") if many else ""
    carried = embed_record(record)
    return seal_page(
        _open_environment()
        .get_template("report.html.j2")
        .render(
            **(_build_fleet_page(record) if many else _build_page(record)),
            style=style,
            style_digest=_digest(style),
            script=script,
            script_digest=_digest(script),
            record_id=EMBEDDED_ID,
            record=carried if len(carried) <= _LARGEST or not many else None,
            unknown_digest=UNKNOWN_DIGEST,
        )
    )


def render_template(name: str, **values: object) -> str:
    """Render one of the package's templates, with its style sheet, as a page that runs and loads nothing."""
    style = _read_file("style.css")
    return _open_environment().get_template(name).render(style=style, style_digest=_digest(style), **values)


def _read_file(name: str) -> str:
    return resources.files("sw_audit_reports").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _open_environment() -> Environment:
    loader = PackageLoader("sw_audit_reports")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_make_printable,
    )
    # For what a template takes apart before it is written.
    environment.filters["printable"] = printable_lines
    return environment


def _make_printable(value: object) -> object:
    """Make anything of a record safe to show, also what is no text yet; what is markup already holds such text."""
    return value if isinstance(value, Markup) else printable_lines(str(value))


def _build_page(record: Record) -> dict[str, Any]:
    results, failed = enumerate(record.results, 1), enumerate(record.failures, 1)
    models = [
        _build_model(Context(record.find_part(result.id), result, f"model-{place}")) for place, result in results
    ]
    failures = [
        _build_failure(record.find_part(failure.id), failure, f"failure-{place}") for place, failure in failed
    ]
    overview = [] if len(record.models) == 1 else _list_models(record, models, failures)
    fleet = [{"id": "models", "title": "Models", "elements": overview}] if overview else []
    kinds = {"result": iter(models), "failure": iter(failures)}
    anchors = [next(kinds[model.kind])["id"] for model in record.models]
    if len(record.models) == 1 and models:
        sentence: Words = models[0]["banner"].sentence
        pointers = models[0]["banner"].pointers
    else:
        sentence, pointers = summarize_worst(record), _list_pointers(models, failures)
    return {
        **_frame_page(record, anchors, sentence, pointers),
        "fleet": fleet,
        "models": models,
        "failures": failures,
    }


def _frame_page(
    record: Record, anchors: Sequence[str], sentence: Words, pointers: Sequence[Cell] = ()
) -> dict[str, Any]:
    """Build what stands around the models."""
    compares = is_comparison(record)
    named = record.models[0].id if len(record.models) == 1 else count(len(record.models), "model")
    heading = f"{'Quantizers compared on' if compares else 'Audit of'} {named}"
    command = write_comparison_command(record) if compares else shlex.join(["sw-audit", "audit", POLICY_FILE])
    banner = open_record(record, sentence, anchors, pointers, compared=compares)
    packages = [] if record.sources else [(code(name), one) for name, one in record.environment.packages.items()]
    return {
        "title": f"{banner.badge.word}: {heading} · sw-audit",
        "heading": heading,
        "banner": banner,
        "glossary": make_terms(GLOSSARY),
        "created": _write_date(record.created),
        "circumstances": _list_circumstances(record),
        "packages": make_table("Packages that decide figures", text("Package", "Version"), packages),
        "asks": "comparison" if compares else "audit",
        "render_command": shlex.join(["sw-audit", "render", "record.json", "-o", "report.html"]),
        "policy_command": command,
        "sources": _list_sources(record),
        "policies": [
            (", ".join(model.id for model in part.models), write_policy(part.policy)) for part in record.parts
        ],
        "annex": build_annex(record),
    }


def _build_fleet_page(record: Record) -> dict[str, Any]:
    """Build the page of many models: tables and charts over all of them, and the worst few in full."""
    entries = tuple(
        Entry(place, f"model-{place + 1}", record.models[place]) for place in rank_worst_first(record.models)
    )
    worst = [entry for entry in entries if isinstance(entry.model, ModelResult) and list_open(entry.model)][
        :_WHOLE
    ]
    context = FleetContext(record, entries, frozenset(entry.anchor for entry in worst))
    built = [(section, list(filter(None, section.build(context)))) for section in list_fleet_sections()]
    models = [
        _build_model(Context(record.find_part(entry.model.id), entry.model, f"{entry.anchor}-whole"))
        for entry in worst
        if isinstance(entry.model, ModelResult)
    ]
    fleet = [{"id": section.id, "title": section.title, "elements": parts} for section, parts in built if parts]
    anchors = [f"model-{place + 1}" for place in range(len(record.models))]
    sentence = [*summarize_worst(record), *_describe_gates(context)]
    return {**_frame_page(record, anchors, sentence), "fleet": fleet, "models": models, "failures": []}


def _describe_gates(context: FleetContext) -> Words:
    """Say which gate most models fail."""
    failed = Counter(
        verdict.check
        for entry in context.entries
        for verdict in list_open(entry.model)
        if verdict.status is Status.FAIL
    )
    if not failed:
        return []
    [(check, most)] = failed.most_common(1)
    return [f" {count(most, 'model fails', 'models fail')} ", code(check), ", more than any other gate."]


def _build_model(context: Context) -> dict[str, Any]:
    result, anchor = context.result, context.anchor
    built = [(section, list(filter(None, section.build(context)))) for section in list_sections()]
    pointers = [
        Cell(
            describe_check(verdict.check).title,
            href=f"{anchor}-{verdict.check}",
            badge=Badge.of_verdict(verdict),
        )
        for verdict in result.verdicts
        if verdict.level == "gate"
    ]
    return {
        "id": anchor,
        "name": result.id,
        "banner": open_model(context, _sort_pointers(pointers)),
        "notes": [split_code(note) for note in result.notes],
        "sections": [
            {"id": f"{anchor}-{section.id}", "title": section.title, "elements": elements}
            for section, elements in built
            if elements
        ],
    }


def _build_failure(record: Record, failure: ModelFailure, anchor: str) -> dict[str, Any]:
    """Build what there is to say of a model that could not be audited: why, and the checks that were judged."""
    source = find_asked(record.policy, failure.id, failure.id).source
    judged = [one for one in failure.verdicts if one.status is not Status.SKIPPED or one.waiver is not None]
    elements = [
        make_paragraph(split_code(failure.message)),
        *list_flaws(failure.weights),
        *(show_verdict(record, verdict, source, anchor) for verdict in judged),
    ]
    failed = conclude_model(failure) is Status.FAIL
    return {
        "id": anchor,
        "name": failure.id,
        "badge": Badge("fail", "Not audited") if failed else Badge("skipped", "Not audited, waived"),
        "elements": list(filter(None, elements)),
        "tally": tally(failure.verdicts),
    }


def _list_pointers(models: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> list[Cell]:
    pointers = [
        Cell(f"{model['name']}: {pointer.text}", href=pointer.href, badge=pointer.badge)
        for model in models
        for pointer in model["banner"].pointers
    ]
    pointers += [Cell(failure["name"], href=failure["id"], badge=failure["badge"]) for failure in failures]
    return _sort_pointers(pointers)


def _sort_pointers(pointers: Sequence[Cell]) -> list[Cell]:
    """Keep what did not pass: failures before what is merely undecided, otherwise in order."""
    statuses = ("fail", "inconclusive")
    return [one for status in statuses for one in pointers if one.badge and one.badge.status == status]


def _list_models(
    record: Record, models: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]
) -> list[Table]:
    """List all models with their verdict, and with figures: of several protocols in a table for each."""
    names = [model["name"] for model in (*models, *failures)]
    kinds = {model.id: model for model in record.models}
    groups = group_by_protocol([kinds[name] for name in names])
    if len(groups) < 2:
        return list(filter(None, [_tabulate_models("All models", record, models, failures)]))
    tables = [_tabulate_models("All models", record, models, failures, figured=False)]
    for group in groups:
        chosen = [models[place] for place in group if place < len(models)]
        if chosen:
            protocol = record.find_model(chosen[0]["name"]).protocol
            tables.append(_tabulate_models(f"Figures of protocol {protocol}", record, chosen, []))
    return list(filter(None, tables))


def _tabulate_models(
    caption: str,
    record: Record,
    models: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    *,
    figured: bool = True,
) -> Table | None:
    results = [record.find_model(model["name"]) for model in models]
    descends = figured and any(result.descent for result in results)
    heads = [*text("Outcome"), *figures("Super weights")] if figured else []
    if descends:
        heads = [*text("Parent"), *figures("Perplexity ratio"), *text("Parent's super weights")]
    unknown: Words = [NOTHING] * len(heads)
    rows: list[Words] = []
    for result, model in zip(results, models, strict=True):
        about: Words = [str(result.location.outcome), len(result.location.super_weights)] if figured else []
        if descends:
            policy = record.find_part(result.id).policy
            about = describe_descent(result.descent, policy) if result.descent else unknown
        banner = model["banner"]
        checks = ", ".join(part.word for part in banner.tally) or "no check"
        rows.append([Cell(result.id, href=model["id"]), banner.badge, *about, checks])
    for failure in failures:
        checks = ", ".join(part.word for part in failure["tally"]) or NOTHING
        rows.append([Cell(failure["name"], href=failure["id"]), failure["badge"], *unknown, checks])
    return make_table(caption, [*text("Model", "Verdict"), *heads, *text("Checks")], rows)


def _list_circumstances(record: Record) -> Terms | None:
    environment, policy = record.environment, record.policy
    if record.sources:
        merged = f"{record.tool.name} {record.tool.version}, record schema {record.schema_number}"
        return make_terms({"Merged": count(len(record.sources), "record"), "Tool": merged})
    return make_terms(
        {
            "Created": _write_date(record.created),
            "Tool": f"{record.tool.name} {record.tool.version}, record schema {record.schema_number}",
            "Python": environment.python,
            "Platform": environment.platform,
            "Threads": format_number(environment.threads),
            "Effort": policy.effort,
            "Intervals": f"{100 * policy.confidence:g} %, paired by windows, at all steps together",
            "Seed": str(policy.seed),
            "Redacted": describe_redactions(record.redacted),
        }
    )


def _list_sources(record: Record) -> Table | None:
    """List the records that were merged: each with its models, and what it was made with."""
    rows = [
        (
            ", ".join(source.models),
            _write_date(source.created),
            f"{source.tool.name} {source.tool.version}",
            source.environment.python,
            source.environment.platform,
            source.environment.threads,
            ", ".join(f"{name} {version}" for name, version in source.environment.packages.items()),
            source.policy.effort,
            f"{100 * source.policy.confidence:g} %",
            source.policy.seed,
            code(source.sha256[:12]),
            "verified" if source.verified else "not verified",
        )
        for source in record.sources
    ]
    heads = [
        *text("Models", "Created", "Tool", "Python", "Platform"),
        *figures("Threads"),
        *text("Packages", "Effort"),
    ]
    heads += [*figures("Intervals", "Seed"), *text("Digest", "When merged")]
    return make_table("The records that were merged", heads, rows)


def _write_date(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    zone = "UTC" if moment.utcoffset() is not None and not moment.utcoffset() else moment.strftime("%z")
    return f"{moment.day} {moment:%B %Y, %H:%M:%S} {zone}".rstrip()
