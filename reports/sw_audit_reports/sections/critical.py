"""Which of all a model's scalars matter: a table, the sets among them, and effects by the gradient's rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import altair

from sw_audit.policy.policy import Intervention
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalScalar, CriticalSearch, CriticalSet, Effect
from sw_audit.record.descent import Descent
from sw_audit.record.location import Impact, Location
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Element, Table, Words, code, figures, make_paragraph, make_table, text
from sw_audit_reports.plots import OFF_SCALE, mark_off_scale, refer
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_FINITE,
    NOT_MEASURED,
    NOTHING,
    count,
    format_change,
    format_exact,
    format_finite,
    format_interval,
    format_number,
    format_optional,
    format_ratio,
)
from sw_audit_reports.theme import Layers, Rows, keep_seen, make_chart, read_rows

_OPEN_AT_MOST = 24
"""Rows of the table that stand open; those beyond are folded away."""
LOCATED, OTHERS = "Located super weights", "Other scalars"
_SERIES = {OTHERS: theme.INTACT, LOCATED: theme.TOUCHED}
_INTERVENTIONS: dict[Intervention, str] = {
    "negate": "Flipped",
    "median": "At the median",
    "one": "At 1",
}
_SETS = {
    "located": "the located super weights, all zeroed",
    "together": "matter only together, all zeroed",
    "masks": "mask: zeroed with the located set, over that set by itself",
}


@section("critical", title="Which of all its scalars matter", order=67)
def show_critical(context: Context) -> Iterator[Element | None]:
    """Show the search among all parameters; of a descendant the parent's, with what stands here in its place."""
    result, descent, anchor = context.result, context.result.descent, f"{context.anchor}-critical"
    if result.critical is not None:
        yield from _show_search(result.critical, result.location, f"{anchor}-effects")
    if descent is None or descent.critical is None:
        return
    yield make_paragraph("The search was made in the parent.")
    yield from list_retained(descent)
    yield from _show_search(descent.critical, descent.parent_location, f"{anchor}-parent-effects")


def _show_search(search: CriticalSearch, location: Location, id: str) -> Iterator[Element | None]:  # noqa: A002
    impacts = {weight.address.scalar: weight.impact for weight in location.super_weights}
    yield make_paragraph(_summarize(search))
    yield make_paragraph(location.impacts or "")
    yield from (make_paragraph(note) for note in search.notes)
    shown = [scalar for scalar in search.scalars if scalar.kind is not None or scalar.address in impacts]
    rest, idle = shown[_OPEN_AT_MOST:], [scalar for scalar in search.scalars if scalar not in shown]
    yield list_scalars(
        "Scalars that matter, and the located ones: perplexity ratio with one changed alone, rank by the gradient",
        shown[:_OPEN_AT_MOST],
        impacts,
    )
    yield list_scalars("More of these", rest, impacts, fold=f"{count(len(rest), 'more scalar')} of these")
    fold = f"{count(len(idle), 'scalar')} tried alone, and not found to matter"
    yield list_scalars("Tried alone, and not found to matter", idle, impacts, fold=fold)
    yield list_sets(search.sets)
    yield _show_effects(search, id)


def _summarize(search: CriticalSearch) -> Words:
    """Say on which text how many scalars matter, and which one costs most by itself."""
    said, costliest = f"{search.summary[0].upper()}{search.summary[1:]}.", search.costliest
    if costliest is None or costliest.effect is None:
        return [said]
    effect = costliest.effect
    does = "leaves no finite perplexity"
    if effect.ratio is not None:
        does = f"multiplies perplexity by {format_ratio(effect.ratio)} {_write_interval(effect)}".rstrip()
    ending = "." if costliest.located else ", and is none of the located super weights."
    return [f"{said} Zeroing ", code(costliest.address), f" costs most: it {does}{ending}"]


def _write_ratio(effect: Effect | None) -> str:
    return NOTHING if effect is None else format_finite(effect.ratio, format_ratio)


def _write_interval(effect: Effect | None) -> str:
    return "" if effect is None else format_interval(effect.low, effect.high)


def list_scalars(
    caption: str, scalars: Sequence[CriticalScalar], impacts: Mapping[ScalarAddress, Impact], *, fold: str = ""
) -> Table | None:
    """List scalars with what each costs alone, in which set it matters, and its rank by the gradient.

    Args:
        caption: What they are.
        scalars: Which.
        impacts: What the located ones among them are.
        fold: What unfolds the table.
    """
    others = [one for one in _INTERVENTIONS if any(one in scalar.others for scalar in scalars)]
    rows = []
    for scalar in scalars:
        matters: list[str] = [impacts.get(scalar.address, "no") if scalar.kind is None else scalar.kind]
        matters += [] if scalar.set is None else [f"set {scalar.set + 1}"]
        matters += ["located"] if scalar.located else []
        applied = "" if scalar.applied is None else f", applied {format_number(scalar.applied, 5)}"
        rows.append(
            (
                code(scalar.address),
                _write_ratio(scalar.effect),
                _write_interval(scalar.effect) or NOTHING,
                ", ".join(matters),
                *(_write_ratio(scalar.others.get(one)) for one in others),
                f"{format_number(scalar.value, 5)}{applied}",
                scalar.rank,
            )
        )
    heads = [*text("Scalar"), *figures("Zeroed", "Interval"), *text("Matters")]
    heads += figures(*(_INTERVENTIONS[one] for one in others), "Value", "Rank")
    return make_table(caption, heads, rows, fold=fold)


def list_sets(sets: Sequence[CriticalSet]) -> Table | None:
    """List the sets that matter, a row for each member; they are counted from 1."""
    rows = [
        (code(member), place, _write_ratio(held.effect), _write_interval(held.effect) or NOTHING, _SETS[held.kind])
        for place, held in enumerate(sets, 1)
        for member in held.members
    ]
    heads = [*text("Scalar"), *figures("Set", "Perplexity ratio", "Interval"), *text("What it is")]
    return make_table("Sets, zeroed as one", heads, rows)


def list_effects(search: CriticalSearch) -> Rows:
    """List the effect of each scalar that was zeroed alone, with its rank by the gradient if it has one."""
    rows = []
    for scalar in search.scalars:
        if scalar.effect is not None:
            effect, series = scalar.effect, LOCATED if scalar.located else OTHERS
            place = theme.place(str(scalar.address), effect.ratio, effect.low, effect.high)
            rows.append({"rank": scalar.rank, "ranked": scalar.rank is not None, "series": series, **place})
    # Those located are drawn last, above the others.
    return sorted(rows, key=lambda row: row["series"] == LOCATED)


def _show_effects(search: CriticalSearch, id: str) -> Chart | None:  # noqa: A002
    rows = list_effects(search)
    if not rows:
        return None
    limit = format_exact(search.minimum_ratio)
    caption = [
        "Perplexity with one scalar zeroed over perplexity as it is, against the scalar's rank by the gradient, "
        f"both on logarithmic axes. The dotted line is the limit, {limit}.",
        "Diamonds are located super weights." if any(row["series"] == LOCATED for row in rows) else "",
        "At the right edge stand those that the gradient did not rank."
        if not all(row["ranked"] for row in rows)
        else "",
        "" if all(row["finite"] for row in rows) else OFF_SCALE,
    ]
    unseen = len(search.scalars) - len(rows)
    if unseen:
        caption.append(
            f"{count(unseen, 'scalar')} tried in sets only {'has' if unseen == 1 else 'have'} no point."
        )
    title = "What each scalar costs alone, by its rank"
    return make_chart(id, title, caption, _plot_effects(rows, search.minimum_ratio), {"points": rows})


def _plot_effects(rows: Rows, limit: float) -> Layers:
    ranks = [row["rank"] for row in rows if row["ranked"]]
    unranked = len(ranks) < len(rows)
    # Room at the right for those without a rank.
    reach = [1.0, max(ranks, default=1) * (4.0 if unranked else 1.5)]
    across = altair.X("rank:Q", scale=theme.scale_log(reach), axis=theme.axis_log("Rank by the gradient"))
    edge = altair.XValue("width")  # type: ignore[no-untyped-call]  # altair's own classes are not annotated
    up = altair.Y("value:Q", scale=theme.scale_log([1.0, limit]), axis=theme.axis_log("Perplexity ratio"))
    colour, shape = theme.encode_series(keep_seen(_SERIES, rows))
    base = read_rows("points").encode(color=colour)
    layers = [refer(limit)]
    if unranked:
        name = altair.Chart(altair.InlineData(values=[{}])).mark_text(align="right", dy=-8, color=theme.MUTED)
        layers.append(name.encode(x=edge, y=theme.at_top(), text=altair.value("no rank")))
    for place, filtered in ((across, "datum.ranked"), (edge, "!datum.ranked")):
        side = base.transform_filter(filtered).encode(x=place)
        layers += [
            side.transform_filter("datum.finite").mark_point().encode(y=up, shape=shape),
            mark_off_scale(side),
        ]
    return layers


def list_retained(descent: Descent) -> Iterator[Table | None]:
    """List the parent's scalars that matter, there and here, what moved most first; many are folded away."""
    searched = descent.critical.scalars if descent.critical else ()
    effects = {scalar.address: scalar.effect for scalar in searched}
    moved = {
        scalar.address: abs(scalar.relative_error)
        for scalar in descent.critical_scalars
        if scalar.relative_error is not None
    }
    rows = [
        (
            code(scalar.address),
            format_number(scalar.parent, 5),
            format_optional(scalar.value, format_number, 5, missing=NOT_MEASURED if scalar.finite else NOT_FINITE),
            format_change(scalar.value, scalar.parent),
            _write_ratio(effects.get(scalar.address)),
        )
        for scalar in sorted(descent.critical_scalars, key=lambda one: -moved.get(one.address, math.inf))
    ]
    heads = [*text("Scalar"), *figures("In the parent", "Here", "Change", "Perplexity ratio, zeroed there")]
    rest = rows[_OPEN_AT_MOST:]
    yield make_table("The parent's scalars that matter, there and here", heads, rows[:_OPEN_AT_MOST])
    yield make_table(
        "Those that moved less", heads, rest, fold=f"{count(len(rest), 'more scalar')} that moved less"
    )
