from __future__ import annotations

import re
from importlib import resources

import pytest
from support.sections import render_example
from sw_audit_reports.theme import GRID, INK, MUTED, STYLES

STYLE = resources.files("sw_audit_reports").joinpath("style.css").read_text(encoding="utf-8")
STATUSES = ("pass", "fail", "inconclusive", "skipped")
TEXT = [("ink", "paper"), ("muted", "paper"), ("link", "paper"), ("ink", "wash"), ("paper", "ink")]
TEXT += [(status, ground) for status in STATUSES for ground in ("paper", f"{status}-wash")]
TEXT += [("ink", f"{status}-wash") for status in STATUSES]
GRAPHICS = [(f"chart-{name}", "paper") for name in ("intact", "touched", "spike", "attention")]


def read_palettes() -> dict[str, dict[str, str]]:
    """Read the custom properties: by day, and by night, where what is not set anew stays."""
    day, night = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[:2]
    )
    return {"day": day, "night": {**day, **night}}


def measure_contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2: (lighter + 0.05) / (darker + 0.05) in relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_measure_of_contrast_agrees_with_known_pairs() -> None:
    assert measure_contrast("#000000", "#ffffff") == pytest.approx(21)
    assert measure_contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("palette", ["day", "night"])
@pytest.mark.parametrize(("pairs", "least"), [(TEXT, 4.5), (GRAPHICS, 3)])
def test_small_print_and_charts_have_the_contrast_that_wcag_aa_asks_of_them(
    palette: str, pairs: list[tuple[str, str]], least: float
) -> None:
    colours = read_palettes()[palette]
    contrasts = {pair: measure_contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair for pair, contrast in contrasts.items() if contrast < least} == set()


def test_the_colours_of_the_charts_are_those_of_the_style_sheet() -> None:
    day = read_palettes()["day"]
    assert (day["ink"], day["muted"], day["chart-grid"]) == (INK, MUTED, GRID)
    assert {name: day[f"chart-{name}"] for name in STYLES} == {
        name: style.colour for name, style in STYLES.items()
    }


def test_every_colour_in_a_chart_can_be_changed_by_the_style_sheet() -> None:
    html = render_example()[0]
    charts = "".join(re.findall(r"<svg [^>]*role=\"img\".*?</svg>", html, flags=re.DOTALL))
    used = set(re.findall(r'(fill|stroke)="([^"]+)"', charts))
    plain = {(key, value) for key, value in used if value not in ("none", "transparent")}
    assert plain
    assert all(f'.chart [{key}="{value}"]' in STYLE for key, value in plain), plain


def test_the_style_sheet_loads_nothing_and_uses_only_what_it_defines() -> None:
    assert not re.search(r"url\(|@import|@font-face|expression|</", STYLE)
    defined = set(re.findall(r"(--[\w-]+):", STYLE))
    assert set(re.findall(r"var\((--[\w-]+)\)", STYLE)) <= defined
