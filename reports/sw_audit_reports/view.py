"""From a record to the page: everything is worded here, so that the template only lays out."""

from __future__ import annotations

import shlex
from datetime import datetime

from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.record import ModelResult, Record
from sw_audit_reports import tables
from sw_audit_reports.cards import build_cards, summarize_cards
from sw_audit_reports.descent import build_beside, tell_descent
from sw_audit_reports.earlier import build_earlier
from sw_audit_reports.figures import build_figures
from sw_audit_reports.outline import ModelView, Page, Unaudited
from sw_audit_reports.overview import build_unaudited, list_models
from sw_audit_reports.page import (
    Badge,
    Banner,
    Cell,
    Table,
    Term,
    make_table,
    split_code,
    text_row,
)
from sw_audit_reports.prompts import build_prompts
from sw_audit_reports.quantizers import COMPARED, build_quantizers, only_compares, tell_comparison
from sw_audit_reports.reproduce import POLICY_FILE, write_comparison_command, write_policy
from sw_audit_reports.sentence import (
    conclude_model,
    conclude_record,
    list_model_ids,
    tally,
    tell_model,
    tell_record,
)
from sw_audit_reports.stored import build_files, build_stored
from sw_audit_reports.text import count, format_number, format_seconds
from sw_audit_reports.works import build_works

_POINTED_TO = ("fail", "inconclusive")


def build_page(record: Record) -> Page:
    """Build the whole page from the record and nothing else."""
    models = tuple(
        _build_model(record, result, f"model-{place}") for place, result in enumerate(record.results, start=1)
    )
    failures = tuple(
        build_unaudited(record, failure, f"failure-{place}")
        for place, failure in enumerate(record.failures, start=1)
    )
    ids = list_model_ids(record)
    compares = bool(record.results) and not record.failures and only_compares(record)
    what = "Quantizers compared on" if compares else "Audit of"
    heading = f"{what} {ids[0]}" if len(ids) == 1 else f"{what} {count(len(ids), 'model')}"
    banner = _build_banner(record, models, failures)
    return Page(
        title=f"{banner.badge.word}: {heading} · sw-audit",
        heading=heading,
        banner=banner,
        overview=list_models(record, models, failures) if len(ids) > 1 else None,
        models=models,
        failures=failures,
        made=_list_circumstances(record),
        packages=_list_packages(record),
        policy=write_policy(record.policy),
        render_command=shlex.join(["sw-audit", "render", "record.json", "-o", "report.html"]),
        policy_command=write_comparison_command(record)
        if compares
        else shlex.join(["sw-audit", "audit", POLICY_FILE]),
        policy_asks="comparison" if compares else "audit",
    )


def _build_banner(record: Record, models: tuple[ModelView, ...], failures: tuple[Unaudited, ...]) -> Banner:
    if len(models) == 1 and not record.failures:
        return models[0].banner
    pointers = [
        Cell(f"{view.name}: {pointer.text}", href=pointer.href, badge=pointer.badge)
        for view in models
        for pointer in view.banner.pointers
    ]
    pointers += [
        Cell(one.name, href=one.id, badge=one.badge) for one in failures if one.badge.status in _POINTED_TO
    ]
    return Banner(
        badge=Badge.of(conclude_record(record)),
        sentence=tell_record(record),
        tally=tally(record.verdicts),
        pointers=_sort_pointers(pointers),
    )


def _build_model(record: Record, evidence: ModelResult, anchor: str) -> ModelView:
    model, verdicts = evidence.model, evidence.verdicts
    cards = build_cards(record, model.id, anchor)
    location = evidence.location
    compares = only_compares(record)
    descent = evidence.descent
    if descent is not None:
        sentence = tell_descent(descent, verdicts, record.policy)
    else:
        sentence = tell_comparison(evidence) if compares else tell_model(evidence, verdicts)
    banner = Banner(
        badge=COMPARED if compares else Badge.of(conclude_model(record, model.id)),
        sentence=sentence,
        tally=tally(verdicts),
        pointers=_sort_pointers(
            [
                Cell(card.title, href=card.id, badge=card.badge)
                for card in cards
                if card.badge.status in _POINTED_TO
            ]
        ),
    )
    refused = sum(not found.accepted for found in location.candidates)
    return ModelView(
        id=anchor,
        name=model.id,
        banner=banner,
        outcome=split_code(f"{location.outcome}: {location.because}"),
        super_weights=tables.list_super_weights(location),
        witness=tables.list_witness(location),
        super_activations=tables.list_super_activations(location),
        candidates=tables.list_candidates(location),
        candidates_summary=f"{count(len(location.candidates), 'candidate')} looked at, {refused} turned down",
        published=tables.list_sources(evidence.published),
        prompts=build_prompts(evidence),
        figures=()
        if compares or descent is not None
        else build_figures(evidence, verdicts, record.policy, anchor),
        works=build_works(evidence, verdicts, record.policy, anchor),
        quantizers=build_quantizers(evidence, f"{anchor}-quantizers"),
        beside=build_beside(descent, verdicts, record.policy, anchor),
        stored=build_stored(evidence.quantization),
        held=build_files(evidence.weights),
        earlier=build_earlier(evidence.baseline),
        checks=None if compares else summarize_cards(record, model.id, anchor),
        cards=() if compares else cards,
        identity=_list_identity(record, evidence),
        files=tables.list_files(model),
        notes=evidence.notes,
    )


def _sort_pointers(pointers: list[Cell]) -> tuple[Cell, ...]:
    """Put failures before what is merely undecided, otherwise keep the order."""
    return tuple(sorted(pointers, key=lambda one: _POINTED_TO.index(one.badge.status if one.badge else "fail")))


def _list_identity(record: Record, evidence: ModelResult) -> tuple[Term, ...]:
    model, protocol = evidence.model, evidence.protocol
    asked = next((one for one in record.policy.models if one.id == model.id), ModelPolicy(source=model.source))
    signature, _, words = str(protocol).partition(" ")
    terms = {
        "Source": (Cell(model.source, code=True),),
        "Revision": (Cell(model.revision or "", code=True),),
        "Digest": (Cell(model.digest, code=True),),
        "Architecture": (Cell(f"{model.architecture} ({model.family})"),),
        "Decoder": (Cell(f"{count(model.layers, 'layer')}, hidden size {format_number(model.hidden_size)}"),),
        "Parameters": (Cell(f"{model.parameters:,}"),),
        "Decoder weights": (Cell(f"{evidence.decoder_weights:,}" if evidence.decoder_weights else ""),),
        "Measured in": (Cell(f"{model.dtype} on {model.device}"),),
        "Protocol": (Cell(signature, code=True), Cell(f" {words}")),
        "Expected": (Cell(f"{record.policy.expectation(asked)} (super weights)"),),
        "Locating prompt": (Cell(evidence.location.prompt),),
        "Time": (Cell(format_seconds(evidence.seconds) if evidence.seconds else ""),),
    }
    return tuple(Term(name, cells) for name, cells in terms.items() if cells[0].text)


def _list_circumstances(record: Record) -> tuple[Term, ...]:
    environment = record.environment
    terms = {
        "Created": _name_date(record.created),
        "Tool": f"{record.tool.name} {record.tool.version}, record schema {record.schema_number}",
        "Python": environment.python,
        "Platform": environment.platform,
        "Threads": format_number(environment.threads),
        "Intervals": f"{100 * record.policy.confidence:g} %, paired bootstrap over windows with "
        f"{record.policy.resamples:,} resamples, seed {record.policy.seed}",
    }
    return tuple(Term(name, (Cell(text),)) for name, text in terms.items())


def _list_packages(record: Record) -> Table:
    rows = [text_row(Cell(name, code=True), version) for name, version in record.environment.packages.items()]
    return make_table("Packages that decide figures", ("Package", "Version"), rows)


def _name_date(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    zone = "UTC" if moment.utcoffset() is not None and not moment.utcoffset() else moment.strftime("%z")
    return f"{moment.day} {moment:%B %Y, %H:%M:%S} {zone}".rstrip()
