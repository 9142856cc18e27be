"""What was audited, as it is stored: which model, what its files hold, how it is quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sw_audit.record.checkpoint import QuantizedModule, WeightsReport
from sw_audit_reports.elements import Badge, Element, code, figures, make_paragraph, make_table, make_terms, text
from sw_audit_reports.reproduce import find_asked
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOTHING,
    count,
    format_bytes,
    format_change,
    format_finite,
    format_number,
    format_seconds,
)


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
            scalar.step,
            format_number(scalar.parent, 5),
            format_finite(scalar.value, format_number, 5),
            format_change(scalar.value, scalar.parent),
            format_number(abs(scalar.value - scalar.parent) / scalar.step, 3)
            if scalar.step and scalar.value is not None
            else NOTHING,
        )
        for scalar in report.super_weights
    ]
    heads = figures("Step of its group", "In the parent", "Here", "Change", "In steps")
    caption = "The parent's super weights as they are stored"
    yield make_table(caption, [*text("Scalar", "Its module"), *heads], scalars)
    ways = Counter(map(_describe_module, report.quantized)).most_common()
    yield make_table("How modules are stored", [*text("How"), *figures("Modules")], ways)
    yield make_table(
        "What each pattern of the configuration matched",
        [*text("Pattern", "Key"), *figures("Modules")],
        [(code(counted.pattern), code(counted.key), counted.modules) for counted in report.patterns],
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
    serious, minor = Badge("fail", "Broken"), Badge("skipped", "Told")
    rows = [
        (code(flaw.where), serious if flaw.serious else minor, flaw.kind.replace("-", " "), flaw.found)
        for flaw in report.flaws
    ]
    yield make_table("What was found in the files", text("Where", "Standing", "Kind", "What"), rows)


@section("identity", title="Which model this is", order=120)
def show_identity(context: Context) -> Iterator[Element | None]:
    """Identify the model and say how it was measured."""
    result, policy = context.result, context.policy
    model, protocol = result.model, result.protocol
    asked = find_asked(policy, model.id, model.source)
    yield make_terms(
        {
            "Source": code(model.source),
            "Revision": code(model.revision or ""),
            "Digest": code(model.digest),
            "Architecture": f"{model.architecture} ({model.family})",
            "Decoder": f"{count(model.layers, 'layer')}, hidden size {format_number(model.hidden_size)}",
            "Parameters": f"{model.parameters:,}",
            "Decoder weights": f"{result.decoder_weights:,}" if result.decoder_weights else "",
            "Measured in": f"{model.dtype} on {model.device}",
            "Protocol": (code(protocol.signature), f" ({protocol.description})"),
            "Expected": f"{policy.expectation(asked)} (super weights)",
            "Locating prompt": result.location.prompt,
            "Time": format_seconds(result.seconds) if result.seconds else "",
            "Memory": str(result.memory or ""),
        }
    )
    files = [(code(file.path), format_bytes(file.size), code(file.sha256)) for file in model.files]
    yield make_table("Weight files", [*text("File"), *figures("Size"), *text("sha256")], files)
