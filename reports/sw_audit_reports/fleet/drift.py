"""How far models have drifted from what they are held against: a small chart for each gate that has a figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair

from sw_audit.checks.registry import find_checks
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports import plots, theme
from sw_audit_reports.elements import Block, Element, make_paragraph
from sw_audit_reports.fleet import Entry, FleetContext, fleet_section
from sw_audit_reports.fleet.models import find_gate, list_gates, name_parent
from sw_audit_reports.sections.checks import write_limit, write_measured
from sw_audit_reports.text import count, join_words
from sw_audit_reports.theme import Rows, read_rows
from sw_audit_reports.vector import draw_vector

_WIDTH, _HEIGHT = 272, 150
_STYLES = {"passes": theme.INTACT, "undecided": theme.ATTENTION, "fails": theme.TOUCHED}
_SERIES = {Status.PASS: "passes", Status.INCONCLUSIVE: "undecided", Status.FAIL: "fails"}
_WIDE = 30
"""How many times the smallest figure the largest is, from where on an axis is logarithmic."""


@dataclass(frozen=True)
class Drift:
    """What one gate found on models that are held against something, in the order of the charts.

    Attributes:
        gate: Its id.
        verdicts: Its verdicts, by the place of the model.
    """

    gate: str
    verdicts: dict[int, Verdict]


@fleet_section("drift", title="Drift from parents and baselines", order=20)
def show_drift(context: FleetContext) -> Iterator[Element | None]:
    """Draw every figure of every gate about a parent or a baseline over the models of each protocol."""
    groups = context.groups
    for place, group in enumerate(groups):
        shown = list(_show_group(group, "drift" if len(groups) == 1 else f"drift-{place + 1}"))
        if shown and len(groups) > 1:
            yield make_paragraph(f"{group.name_protocol()}:")
        yield from shown


def _show_group(context: FleetContext, anchor: str) -> Iterator[Element | None]:
    held = order_by_parent(context)
    drifts = list_drifts(context, held)
    if not drifts:
        return
    groups = [(name, len(list(members))) for name, members in itertools.groupby(held, _name)]
    parts = [f"{number} against {name}" for name, number in groups]
    yield make_paragraph(
        f"One point for each of {count(len(held), 'model')}, from left to right as the policy has them: "
        f"{join_words(parts)}. Circles pass, diamonds fail, squares are undecided, and a triangle at the upper "
        "edge is not finite; the dotted line is the limit, upright ones part the parents and baselines."
    )
    borders = list(itertools.accumulate(number for _, number in groups))[:-1]
    charts = [_draw(drift, held, borders, anchor) for drift in drifts]
    yield Block("multiples.html.j2", {"charts": charts})


def order_by_parent(context: FleetContext) -> list[Entry]:
    """List the models that are held against something: by what that is, then in the policy's order."""
    entries = sorted(context.entries, key=lambda one: one.place)
    held = [entry for entry in entries if name_parent(entry.model)]
    names = list(dict.fromkeys(map(_name, held)))
    return sorted(held, key=lambda one: names.index(_name(one)))


def list_drifts(context: FleetContext, held: Sequence[Entry]) -> list[Drift]:
    """List what the gates found that are about a parent or a baseline, of more than one model.

    A figure that is the same everywhere, as where nothing at all was found wrong, is left to the table.
    """
    checks, drifts = find_checks(), []
    for gate in list_gates(context):
        if gate not in checks or checks[gate].scope not in ("descendant", "baseline"):
            continue
        found = {place: find_gate(entry, gate) for place, entry in enumerate(held)}
        shown = {place: one for place, one in found.items() if one is not None and _is_shown(one)}
        if len({verdict.observed for verdict in shown.values()}) > 1:
            drifts.append(Drift(gate, shown))
    return drifts


def _name(entry: Entry) -> str:
    return name_parent(entry.model)


def _is_shown(verdict: Verdict) -> bool:
    """Whether there is a figure, or one that is not finite, held against a limit."""
    return verdict.limit is not None and (verdict.observed is not None or verdict.status is Status.FAIL)


def _draw(drift: Drift, held: Sequence[Entry], borders: Sequence[int], anchor: str) -> dict[str, Any]:
    verdicts = drift.verdicts
    rows: Rows = [
        {
            "place": place,
            "value": verdict.observed,
            "finite": verdict.observed is not None,
            "series": _SERIES[verdict.status],
            "tip": f"{held[place].model.id}: {write_measured(verdict, verdict)[0]}",
        }
        for place, verdict in verdicts.items()
        if verdict.status in _SERIES
    ]
    first = next(iter(verdicts.values()))
    limits = sorted({verdict.limit for verdict in verdicts.values() if verdict.limit is not None})
    values = [row["value"] for row in rows if row["finite"]]
    reach = [*values, *limits]
    wide = min(reach) > 0 and max(reach) > _WIDE * min(reach)
    plain = altair.Scale(zero=False, domain={"unionWith": limits}, padding=6)
    scale, axis = (theme.scale_log(limits), theme.axis_log()) if wide else (plain, theme.axis_plain(""))
    up = altair.Y("value:Q", scale=scale, axis=axis)
    across = altair.X("place:Q", axis=None, scale=altair.Scale(domain=[-1, len(held)], nice=False))
    colour, shape = theme.encode_series(theme.keep_seen(_STYLES, rows), legend=False)
    points = read_rows("points").encode(x=across, color=colour)
    size = 34 if len(held) < 60 else 16
    finite = points.transform_filter("datum.finite").encode(y=up).mark_point(size=size, opacity=0.8)
    layers = [plots.refer(limit) for limit in limits]
    if borders:
        parting = altair.Chart(altair.InlineData(values=[{"place": border - 0.5} for border in borders]))
        layers.append(parting.mark_rule(**theme.REFERENCE).encode(x=across))
    layers.append(finite.encode(shape=shape))
    if len(values) < len(rows):
        layers.append(plots.mark_off_scale(points))
    fit = {"width": _WIDTH, "height": _HEIGHT, "autosize": {"type": "fit", "contains": "padding"}}
    spec = theme.specify(layers, fit)
    spec["datasets"] = {**spec.get("datasets", {}), "points": rows}
    wrong = sum(row["series"] == "fails" for row in rows)
    title = f"{drift.gate}: {first.quantity or 'measured'}"
    said = f"{wrong} of {count(len(rows), 'model')} fail; limit {write_limit(first, first.side)}."
    drawing = draw_vector(spec, id=f"{anchor}-{drift.gate}", title=title, description=said)
    return {"gate": drift.gate, "quantity": first.quantity, "said": said, "drawing": drawing}
