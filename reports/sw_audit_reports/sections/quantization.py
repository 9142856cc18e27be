"""How a model is quantized: the method, the super weights as they are stored, what its patterns matched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sw_audit.record.checkpoint import QuantizedModule
from sw_audit_reports.elements import Element, code, figures, make_paragraph, make_table, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import NOTHING, count, format_change, format_finite, format_number, format_optional


@section("quantization", title="How it is quantized", order=50)
def show_quantization(context: Context) -> Iterator[Element | None]:
    """Describe how a quantized model is stored."""
    report = context.result.quantization
    if report is None:
        return
    exactness = "exactly those" if report.exact else "near those"
    reason = "" if report.exact else f": {report.because.rstrip('.')}"
    yield make_paragraph(
        f"Stored quantized by {report.method}{f' ({report.described})' if report.described else ''}. "
        f"The weights that were read are {exactness} that it computes with{reason}."
    )
    scalars = [
        (
            code(scalar.address),
            _describe_module(scalar.module),
            format_optional(scalar.step),
            format_number(scalar.parent, 5),
            format_finite(scalar.value, format_number, 5),
            format_change(scalar.value, scalar.parent),
            format_number(abs(scalar.value - scalar.parent) / scalar.step, 3)
            if scalar.step and scalar.value is not None
            else NOTHING,
        )
        for scalar in report.super_weights
    ]
    heads = [
        *text("Scalar", "Its module"),
        *figures("Step of its group", "In the parent", "Here", "Change", "In steps"),
    ]
    yield make_table("The parent's super weights as they are stored", heads, scalars)
    ways = Counter(_describe_module(module) for module in report.quantized)
    yield make_table(
        "How modules are stored",
        [*text("How"), *figures("Modules")],
        [(way, format_number(number)) for way, number in ways.most_common()],
    )
    patterns = [(code(one.pattern), code(one.key), format_number(one.modules)) for one in report.patterns]
    yield make_table(
        "What each pattern of the configuration matched",
        [*text("Pattern", "Key"), *figures("Modules")],
        patterns,
    )
    matrices = count(len(report.unquantized), "decoder matrix", "decoder matrices")
    caption = f"{matrices} not quantized, though no pattern says so"
    yield make_table(caption, text("Matrix"), [(code(name),) for name in report.unquantized], fold=caption)


def _describe_module(module: QuantizedModule | None) -> str:
    if module is None:
        return "not quantized"
    words = ["quantized" if module.bits is None else f"{format_number(module.bits)} bits"]
    if module.group is not None:
        words.append(f"one scale per {format_number(module.group)} inputs")
    if module.activations is not None:
        words.append(f"activations in {format_number(module.activations)} bits")
    return ", ".join(words)
