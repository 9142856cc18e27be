"""Which model it is: source, digest, sizes, protocol, weight files."""

from __future__ import annotations

from collections.abc import Iterator

from sw_audit.policy.policy import ModelPolicy
from sw_audit_reports.elements import Element, code, figures, make_table, make_terms, text
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import count, format_bytes, format_number, format_seconds


@section("identity", title="Which model this is", order=120)
def show_identity(context: Context) -> Iterator[Element | None]:
    """Identify the model and say how it was measured."""
    result, policy = context.result, context.policy
    model, protocol = result.model, result.protocol
    asked = next((one for one in policy.models if one.id == model.id), ModelPolicy(source=model.source))
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
        }
    )
    files = [(code(file.path), format_bytes(file.size), code(file.sha256)) for file in model.files]
    yield make_table("Weight files", [*text("File"), *figures("Size"), *text("sha256")], files)
