"""The published dose curves: of the model itself, and of others to compare with."""

from __future__ import annotations

from sw_audit.record.dose import DoseCurve
from sw_audit.record.published import PublishedIndex, PublishedModel


def list_dose_curves(index: PublishedIndex, model: PublishedModel | None) -> tuple[DoseCurve, ...]:
    """List every curve of a model, and of other models those of perplexity, which can be compared.

    Args:
        index: The index.
        model: The entry of the audited model, if there is one.

    Returns:
        The model's own curves first.
    """
    titles = {source.key: source.title for source in index.sources}
    curves = [
        DoseCurve(
            model=entry.id,
            quantity=curve.quantity,
            points=tuple(sorted(curve.points)),
            source=titles[curve.source],
            own=model is not None and entry.id == model.id,
        )
        for entry in index.models
        for curve in entry.curves
    ]
    kept = [curve for curve in curves if curve.own or curve.is_perplexity_ratio]
    return tuple(sorted(kept, key=lambda curve: not curve.own))
