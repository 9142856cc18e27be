"""What a static look at the weight files found."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit.record.checkpoint import WeightsReport
from sw_audit_reports.elements import Badge, Cell, Element, code, make_paragraph, make_table, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import count, format_number

_SERIOUS, _MINOR = Badge("fail", "Broken"), Badge("skipped", "Told")


@section("files", title="What its files hold", order=60)
def show_files(context: Context) -> Iterator[Element | None]:
    """List what is wrong with the files of a model that was opened all the same."""
    yield from list_flaws(context.result.weights)


def list_flaws(report: WeightsReport | None) -> Iterator[Element | None]:
    """List what a static look at weight files found; nothing where nobody looked."""
    if report is None:
        return
    looked = f"{count(report.files, 'weight file')} with {count(report.tensors, 'tensor')} looked at"
    sentences = [f"{looked}, {format_number(report.scanned)} of them value by value."]
    if report.manifest:
        sentences.append("File digests were held against a manifest.")
    total = sum(report.counts.values()) or len(report.flaws)
    if not total:
        sentences.append("Nothing is wrong with them.")
    elif total > len(report.flaws):
        sentences.append(f"{count(total, 'thing')} found, of which these are listed.")
    if report.remedy:
        sentences.append(f"What to do: {report.remedy.rstrip('.')}.")
    yield make_paragraph(" ".join(sentences))
    rows = [
        (
            code(flaw.where),
            Cell("", badge=_SERIOUS if flaw.serious else _MINOR),
            flaw.kind.replace("-", " "),
            flaw.found,
        )
        for flaw in report.flaws
    ]
    yield make_table("What was found in the files", text("Where", "Standing", "Kind", "What"), rows)
