"""Experts that a text never reached: what a verdict that rests on that text says nothing of."""

from __future__ import annotations

from collections.abc import Sequence

from sw_audit.record.arm import DESCENDANT
from sw_audit.record.experts import RoutedLayer
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Finding, Status, Verdict

UNREACHED = "experts that no token reached"
# So many layers, and so many experts of each, are named.
_LAYERS, _EXPERTS = 4, 8


def tell_unreached(verdict: Verdict, result: ModelResult) -> Verdict:
    """Return a verdict that names the experts which the text that it rests on never reached, if it rests on one.

    The text is all that was measured of the model as it is, which is as much as any figure rests on, or more.
    """
    if verdict.evidence is None or verdict.evidence.unit != "windows":
        return verdict
    unreached = [layer for layer in find_routing(result, verdict.protocol) if layer.unreached]
    if not unreached:
        return verdict
    finding = Finding(label=UNREACHED, status=Status.SKIPPED, because=describe_unreached(unreached))
    return verdict.model_copy(update={"findings": (*verdict.findings, finding)})


def find_routing(result: ModelResult, protocol: str | None = None) -> tuple[RoutedLayer, ...]:
    """Return where a mixture routed a text, by the signature of its protocol; by default its first text."""
    texts = () if result.descent is None else result.descent.texts
    of_texts = [measured for text in texts if (measured := text.measured(DESCENDANT)) is not None]
    measured = next((one for one in of_texts if one.protocol == protocol), result.unedited)
    return () if measured is None else measured.routing


def describe_unreached(unreached: Sequence[RoutedLayer]) -> str:
    """Say of some layers which of their experts no token was routed to, a sentence."""
    parts = []
    for layer in unreached[:_LAYERS]:
        some = ", ".join(map(str, layer.unreached[:_EXPERTS])) + (
            ", ..." if len(layer.unreached) > _EXPERTS else ""
        )
        parts.append(f"{len(layer.unreached)} of {len(layer.tokens)} experts of layer {layer.layer} ({some})")
    more = len(unreached) - _LAYERS
    others = f", and some in {more} more layer{'s' if more > 1 else ''}," if more > 0 else ""
    return f"{', '.join(parts)}{others} were reached by no token: the text says nothing of them."
