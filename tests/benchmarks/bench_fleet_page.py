"""What a page of 200 models costs, against a page of each (`make bench`)."""

from __future__ import annotations

from pathlib import Path

from support.benchmarks import take_seconds
from support.fleets import multiply
from sw_audit_reports.html import render_html

from sw_audit.record.record import Record
from sw_audit.runner.assignments import assign_file
from sw_audit.runner.options import AuditSettings
from sw_audit.runner.run import run
from sw_audit.specimen.descendants import write_demo

MODELS, VERDICTS = 200, 3_000
SAMPLE = 5
SECONDS, BYTES = 10, 10_000_000


def test_a_page_of_many_models_against_a_page_of_each(tmp_path: Path) -> None:
    policy = write_demo(tmp_path / "demo")[0]
    many = multiply(run(assign_file(policy, AuditSettings(), Path()).policy), MODELS)
    assert len(many.verdicts) >= VERDICTS
    pages: list[str] = []

    def render(record: Record) -> tuple[float, float]:
        return take_seconds(lambda: pages.append(render_html(record)))

    render(many.model_copy(update={"models": many.models[:1]}))  # what is loaded once is loaded
    alone = [render(many.model_copy(update={"models": (model,)})) for model in many.models[1 : SAMPLE + 1]]
    whole = render(many)
    each = [sum(seconds) * MODELS / SAMPLE for seconds in zip(*alone, strict=True)]
    size = len(pages.pop().encode())
    sizes = sum(len(page.encode()) for page in pages[1:]) * MODELS / SAMPLE
    print(f"\n{MODELS} models, {len(many.verdicts):,} verdicts, pages of single models from {SAMPLE} of them")
    print("| what | seconds | of the processor | MB |")
    print("|---|---|---|---|")
    print(f"| a page of each model | {each[0]:.1f} | {each[1]:.1f} | {sizes / 1e6:.1f} |")
    print(f"| one page of all | {whole[0]:.1f} | {whole[1]:.1f} | {size / 1e6:.1f} |")
    print(f"| ratio | {whole[0] / each[0]:.3f} | {whole[1] / each[1]:.3f} | {size / sizes:.3f} |")
    print(f"| target | {SECONDS} | | {BYTES / 1e6:.0f} |")
    assert size < BYTES
