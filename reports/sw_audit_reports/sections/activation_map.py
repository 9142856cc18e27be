"""Activations by layer and token: as the model is and with its super weights zeroed, or beside its parent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sw_audit.record.maps import ActivationMap, Magnitudes
from sw_audit_reports import theme
from sw_audit_reports.elements import Chart, Table, figures, make_table
from sw_audit_reports.plots import Panel, describe_cells, plot_heat
from sw_audit_reports.sections import Context, section
from sw_audit_reports.sections.descent import THE_PARENT, THIS_MODEL
from sw_audit_reports.sections.effect import AS_IT_IS, ZEROED
from sw_audit_reports.text import NOT_FINITE, format_number
from sw_audit_reports.theme import make_chart


@section("activation-map", title="Activations by layer and token", order=80)
def show_activation_map(context: Context) -> Iterator[Chart]:
    """Draw the largest magnitude in the residual stream by layer and token, on both sides."""
    result, descent = context.result, context.result.descent
    seen = result.activation_map if descent is None else descent.activation_map
    if seen is None:
        return
    names = (AS_IT_IS, ZEROED) if descent is None else (THE_PARENT, THIS_MODEL)
    location = result.location if descent is None else descent.parent_location
    sides = dict(zip(names, (seen.before, seen.after), strict=True))
    tokens = [f"{place} {_name_token(token)}" for place, token in enumerate(seen.tokens, seen.first_token)]
    panels = [Panel(name, tokens, list(zip(*side, strict=True))) for name, side in sides.items()]
    marked = [weight.layer for weight in location.super_weights]
    plot, rows = plot_heat(panels, seen.layers, "Decoder layer", theme.SPIKE, marked)
    caption = [*_summarize(seen, sides), *describe_cells(panels)]
    title = "Largest entry of the residual stream, by layer and token"
    yield make_chart(f"{context.anchor}-activations", title, caption, plot, rows, _tabulate(seen, sides))


def _name_token(token: str) -> str:
    return token.strip() or repr(token)


def find_largest(magnitudes: Sequence[float | None]) -> tuple[float, int] | None:
    """Find the largest of some magnitudes, the first of several, and its place; `None` if none is finite."""
    finite = [(value, place) for place, value in enumerate(magnitudes) if value is not None]
    return max(finite, key=lambda one: one[0], default=None)


def _summarize(seen: ActivationMap, sides: Mapping[str, Magnitudes]) -> Iterator[str]:
    yield (
        "The locating prompt runs from top to bottom, the model from left to right. The stronger the colour, "
        "the larger the largest entry of the token's state after that layer, on a logarithmic scale."
    )
    for name, side in sides.items():
        top = find_largest([value for row in side for value in row])
        if top is None:
            yield f"{name}: {NOT_FINITE}."
            continue
        layer, token = divmod(top[1], len(seen.tokens))
        where = f"at token {seen.first_token + token} after layer {seen.layers[layer]}"
        yield f"{name}: at most {format_number(top[0])}, {where}."


def _tabulate(seen: ActivationMap, sides: Mapping[str, Magnitudes]) -> Table | None:
    rows = []
    for place, layer in enumerate(seen.layers):
        cells: list[str | int | float] = [layer]
        for side in sides.values():
            top = find_largest(side[place])
            cells += [NOT_FINITE, ""] if top is None else [top[0], seen.first_token + top[1]]
        rows.append(cells)
    heads = [head for name in sides for head in (name, "At token")]
    return make_table("Largest entry after each layer", figures("Layer", *heads), rows)
