"""The sections on how a model is stored: how it is quantized, and what its files hold."""

from __future__ import annotations

from collections import Counter

from sw_audit.record.quantized import HeldScalar, QuantizationReport, QuantizedModule
from sw_audit.record.weights import WeightsReport
from sw_audit_reports.descent_tables import format_change
from sw_audit_reports.outline import Files, Stored
from sw_audit_reports.page import Badge, Cell, Table, make_table, split_code, text_row
from sw_audit_reports.text import NOT_FINITE, NOTHING, count, format_number

_FLAWED, _TOLD = Badge("fail", "Broken"), Badge("skipped", "Told")


def build_stored(report: QuantizationReport | None) -> Stored | None:
    """Build the section on how a model is quantized; `None` where it is not."""
    if report is None:
        return None
    told = f"Stored quantized by {report.method}"
    told += f" ({report.described})." if report.described else "."
    told += (
        " The weights that were read are exactly those that it computes with."
        if report.exact
        else f" The weights that were read are near those that it computes with: {report.because.rstrip('.')}."
    )
    return Stored(told, _list_held(report), _list_patterns(report), _list_modules(report), _list_left(report))


def build_files(report: WeightsReport | None) -> Files | None:
    """Build the section on what a static look at the files found; `None` where nobody looked."""
    if report is None:
        return None
    looked = f"{count(report.files, 'weight file')} with {count(report.tensors, 'tensor')} looked at"
    told = [f"{looked}, {format_number(report.scanned)} of them value by value."]
    if report.manifest:
        told.append("File digests were held against a manifest.")
    total = sum(report.counts.values()) or len(report.flaws)
    if not total:
        told.append("Nothing is wrong with them.")
    elif total > len(report.flaws):
        told.append(f"{count(total, 'thing')} found, of which these are listed.")
    if report.remedy:
        told.append(f"What to do: {report.remedy.rstrip('.')}.")
    rows = [
        text_row(
            Cell(flaw.where, code=True),
            Cell("", badge=_FLAWED if flaw.serious else _TOLD),
            flaw.kind.replace("-", " "),
            flaw.found,
        )
        for flaw in report.flaws
    ]
    table = make_table("What was found in the files", ("Where", "Standing", "Kind", "What"), rows)
    return Files(split_code(" ".join(told)), table if rows else None)


def _list_held(report: QuantizationReport) -> Table | None:
    rows = [
        text_row(
            Cell(str(one.address), code=True),
            _describe_module(one.module),
            NOTHING if one.step is None else format_number(one.step),
            format_number(one.parent, 5),
            NOT_FINITE if one.value is None else format_number(one.value, 5),
            *_write_error(one),
        )
        for one in report.super_weights
    ]
    titles = ("Scalar", "Its module", "#Step of its group", "#In the parent", "#Here", "#Change", "#In steps")
    return make_table("The parent's super weights as they are stored", titles, rows) if rows else None


def _write_error(one: HeldScalar) -> tuple[str, str]:
    if one.value is None:
        return NOTHING, NOTHING
    steps = NOTHING if not one.step else format_number(abs(one.value - one.parent) / one.step, 3)
    return format_change(one.value, one.parent), steps


def _list_patterns(report: QuantizationReport) -> Table | None:
    rows = [
        text_row(Cell(one.pattern, code=True), Cell(one.key, code=True), format_number(one.modules))
        for one in report.patterns
    ]
    caption = "What each pattern of the configuration matched"
    return make_table(caption, ("Pattern", "Key", "#Modules"), rows) if rows else None


def _list_modules(report: QuantizationReport) -> Table:
    ways = Counter(_describe_module(one) for one in report.quantized)
    rows = [text_row(way, format_number(number)) for way, number in ways.most_common()]
    return make_table("How modules are stored", ("How", "#Modules"), rows)


def _list_left(report: QuantizationReport) -> Table | None:
    rows = [text_row(Cell(name, code=True)) for name in report.unquantized]
    caption = f"{count(len(rows), 'decoder matrix', 'decoder matrices')} not quantized, though no pattern says so"
    return make_table(caption, ("Matrix",), rows) if rows else None


def _describe_module(module: QuantizedModule | None) -> str:
    if module is None:
        return "not quantized"
    words = ["quantized" if module.bits is None else f"{format_number(module.bits)} bits"]
    if module.group is not None:
        words.append(f"one scale per {format_number(module.group)} inputs")
    if module.activations is not None:
        words.append(f"activations in {format_number(module.activations)} bits")
    return ", ".join(words)
