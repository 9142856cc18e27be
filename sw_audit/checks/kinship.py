"""Whose descendant a checkpoint looks like, from fingerprints: evidence, not proof."""

from __future__ import annotations

from collections.abc import Iterable

from sw_audit.record.fingerprint import KIN, Fingerprint, Kin, Kinship

NEAR = 0.25
"""Relative difference up to which a value is near: rounding to 4 bits and fine-tuning stay within it."""


def compare_fingerprints(mine: Fingerprint, other: Fingerprint) -> Kinship:
    """Tell how alike two fingerprints are.

    `same`: all of the other's coordinates are there, with the same values. `close`: all are there, with values
    that rounding or fine-tuning explains (`NEAR`), or values are not known. `moved`: all are there, with other
    values or signs. `partial`: some are. `none`: none is, or the models are of different shapes.
    """
    theirs = {one.coordinate: one for one in other.weights}
    shared = [one for one in mine.weights if one.coordinate in theirs]

    def answer(kin: Kin, because: str, drift: float | None = None) -> Kinship:
        return Kinship(other=other.name, kin=kin, shared=len(shared), of=len(theirs), drift=drift, because=because)

    if mine.shape is not None and other.shape is not None and mine.shape != other.shape:
        shapes = [f"{one.layers} layers of width {one.hidden_size}" for one in (mine, other)]
        return answer("none", f"they are of different shapes: {shapes[0]}, and {shapes[1]}")
    if not theirs or not mine.weights:
        return answer("none", f"{other.name if mine.weights else 'this model'} has no super weight to compare")
    if not shared:
        return answer("none", f"none of its {len(theirs)} coordinates is a super weight here")
    values = [(one.value, theirs[one.coordinate].value) for one in shared]
    known = [(here, there) for here, there in values if here is not None and there]
    drift = max((abs(here - there) / abs(there) for here, there in known), default=None)
    coordinates = ", ".join(f"{one.layer} [{one.row}, {one.column}]" for one in shared)
    words = f"{len(shared)} of its {len(theirs)} coordinates are super weights here (layer {coordinates})"
    told = "; values are not known" if drift is None else f"; their values differ by at most {drift:.2%}"
    if len(shared) < len(theirs):
        return answer("partial", words + told, drift)
    if drift == 0:
        return answer("same", f"{words}; their values are the same", drift)
    return answer("moved" if drift is not None and drift > NEAR else "close", words + told, drift)


def rank_kin(mine: Fingerprint, others: Iterable[Fingerprint]) -> tuple[Kinship, ...]:
    """Compare with several models; the most alike first, then by how many coordinates are shared, then by name."""
    found = [compare_fingerprints(mine, other) for other in others]
    return tuple(sorted(found, key=lambda one: (KIN.index(one.kin), -one.shared, one.drift or 0.0, one.other)))
