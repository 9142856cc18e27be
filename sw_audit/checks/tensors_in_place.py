"""Whether each tensor of a descendant is where it was in its parent."""

from __future__ import annotations

from pydantic import Field

from sw_audit.checks.context import StaticContext
from sw_audit.checks.estimate import write_number
from sw_audit.checks.limits import Limits, Share
from sw_audit.checks.registry import Need, check
from sw_audit.record.files import ChangedTensor, ComparedTensors, TensorChange
from sw_audit.record.verdict import Finding, Status, Verdict

_AGAIN = "Run the audit again with this check selected."
_LINES: frozenset[TensorChange] = frozenset({"zeroed", "flipped", "repeated", "exchanged", "doubled"})
_WORDS: dict[TensorChange, str] = {
    "swapped": "it has changed places with the parent's {nearest}",
    "moved": "it is the parent's {nearest}",
    "copied": "it is a copy of the parent's {nearest}, which is also in its own place",
    "transposed": "it is its own in the parent, transposed",
    "turned": "it is its own in the parent with rows and columns in reverse order",
    "negated": "it is its own in the parent times -1",
    "unrelated": "it resembles nothing in the parent",
    "apart": "it is far from its own in the parent, where most matrices are near theirs",
    "scaled": "it is its own in the parent times {factor}, and those of most layers are not",
    "rescaled": "its blocks are the parent's times numbers of their own, and those of most layers are not",
    "constant": "it is one number in every place, and was not in the parent",
    "missing": "the parent's layer is gone with its {count} tensors",
    "zeroed": "{lines} zero, and not in the parent",
    "flipped": "{lines} the parent's times -1",
    "repeated": "{lines} one number in every place, and not in the parent",
    "exchanged": "{lines} other {axis} of the parent's; the first is {nearest}",
    "doubled": "{lines} bit for bit another token's, and not in the parent; the first is {nearest}",
}


class TensorsInPlaceLimits(Limits):
    """Limits of `tensors-in-place`.

    Attributes:
        maximum_misplaced: So many tensors may be another's, transposed, unrelated, constant or gone, as after
            layers were left out on purpose.
        maximum_zeroed: Largest share of a tensor's rows, or of its columns, that may have become zero, as after
            structured pruning.
    """

    maximum_misplaced: int = Field(default=0, ge=0)
    maximum_zeroed: Share = Field(default=0.0, examples=[0.25])


@check(
    id="tensors-in-place",
    order=165,
    title="Every tensor is where it was in the parent",
    meaning="What was swapped, copied, turned or zeroed on the way has the right shape, and loads.",
    quantity="tensors out of place",
    fails="one is nearer to another of the parent's than to its own, or rows are zero, negated or other ones",
    limits=TensorsInPlaceLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.TENSORS}),
    static=True,
    reads_files=True,
)
def tensors_in_place(context: StaticContext) -> Verdict:
    """Rule of `tensors-in-place`.

    FAIL where more than `maximum_misplaced` tensors are not their own in the parent, where more than
    `maximum_zeroed` of a tensor's rows or columns became zero, or where any rows or columns are negated, one
    number or other ones. Changes that sound compression makes too are told, and so is an adapter's base that is
    not the parent, which is then compared. Skipped where no more tensors could be compared than not.
    """
    files = context.result.files
    if files is None or files.tensors is None:
        return context.conclude(Status.INCONCLUSIVE, "Nobody compared the tensors.", remedy=_AGAIN)
    tensors, limits = files.tensors, context.limits(TensorsInPlaceLimits)
    left_out = "; ".join(f"{one.count} not compared: {one.because}" for one in tensors.uncompared)
    failing = _list_failing(tensors, limits)
    if not failing and tensors.compared <= sum(one.count for one in tensors.uncompared):
        words = f"{tensors.compared or 'No'} tensor{'s were' if tensors.compared > 1 else ' was'} compared"
        return context.conclude(Status.SKIPPED, f"{words}: {left_out or 'there is none'}.")
    findings = [
        Finding(
            label=one.name if one.axis is None else f"{one.name} {one.axis}",
            status=Status.FAIL if one.serious and one.change in failing else Status.SKIPPED,
            observed=float(one.count),
            because=f"{_describe(one)}.",
        )
        for one in tensors.changed
    ]
    if tensors.base is not None:
        told = f"The adapter goes on this, whose files are not the parent's; {tensors.equal} of"
        told += f" {tensors.compared} tensors are equal to the parent's."
        findings.insert(0, Finding(label=tensors.base, status=Status.SKIPPED, because=told))
    because = f"{tensors.compared} tensors are nearest to their own in the parent, {tensors.equal} of them equal"
    first = next((one for one in tensors.changed if one.serious and one.change in failing), None)
    count = sum(tensors.counts[kind] for kind in failing)
    if first is not None:
        others = f" (and {count - 1} more)" if count > 1 else ""
        because = f"{first.name}: {_describe(first)}{others}"
    if tensors.base is not None:
        because = f"its base {tensors.base} is not the parent by its files: {because}"
    if tensors.rotated:
        because += f"; {tensors.rotated} were multiplied by an orthogonal matrix"
    return context.conclude(
        Status.FAIL if failing else Status.PASS,
        f"{because}{'; ' if left_out else ''}{left_out}.",
        remedy=_advise(first),
        observed=float(sum(tensors.counts.values())),
        limit=limits.maximum_misplaced,
        findings=findings,
    )


def _list_failing(tensors: ComparedTensors, limits: TensorsInPlaceLimits) -> set[TensorChange]:
    """List the kinds of change that are beyond their limit; of each kind the largest share comes first."""
    kinds = set(tensors.counts)
    whole = kinds - _LINES
    if sum(tensors.counts[kind] for kind in whole) <= limits.maximum_misplaced:
        kinds -= whole
    zeroed = [one.count / one.of for one in tensors.changed if one.serious and one.change == "zeroed"]
    if max(zeroed, default=0.0) <= limits.maximum_zeroed:
        kinds.discard("zeroed")
    return kinds


def _describe(one: ChangedTensor) -> str:
    some = ", ".join(map(str, one.indices)) + (", ..." if one.count > len(one.indices) else "")
    verb = "is" if one.count == 1 else "are"
    lines = f"{one.count} of its {one.of} {one.axis} ({some}) {verb}"
    factor = "" if one.other is None else write_number(one.other)
    words = _WORDS[one.change].format(
        nearest=one.nearest, count=one.count, lines=lines, axis=one.axis, factor=factor
    )
    cosines = [
        f"{write_number(cosine)} with {what}"
        for cosine, what in ((one.own, "its own"), (one.other, "that"))
        if cosine is not None and one.change not in ("zeroed", "flipped", "repeated", "scaled", "doubled")
    ]
    return words + (f" (cosine {', '.join(cosines)})" if cosines else "")


def _advise(first: ChangedTensor | None) -> str | None:
    if first is None:
        return None
    return (
        f"Write the checkpoint again from the parent, and look at what the conversion does with {first.name}; "
        "what was left out on purpose is allowed by `maximum_misplaced` and `maximum_zeroed`."
    )
