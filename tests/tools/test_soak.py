from __future__ import annotations

from pathlib import Path

import pytest

from tools.broken.catalogue import CATALOGUE
from tools.broken.judging import Outcome
from tools.soak import __main__ as soak
from tools.soak.checkpoints import is_caught, list_broken
from tools.soak.intervals import list_errors
from tools.soak.pages import make_table, write_between
from tools.soak.simulate import (
    CONFIDENCE,
    DATA,
    EACH,
    SHARE,
    UNHELD,
    WINDOW_LOOKS,
    Bounds,
    Case,
    Indices,
    list_cases,
    measure_misses,
    simulate,
)

MODELS = sorted(path.stem for path in DATA.glob("*.json"))


def make_case(low: float, high: float, *, from_size: int = 4) -> Case:
    """Return a figure that is 0, with an interval from some size on and an endless one before."""

    def bound(drawn: Indices, _: float) -> Bounds:
        return (0.0, low, high) if len(drawn) >= from_size else (0.0, -9.0, 9.0)

    return Case("figure", "model", "arm", 10, bound, "at most", (0.5,), (), (4, 8, 16))


def test_a_verdict_is_taken_at_the_first_look_that_decides() -> None:
    [rates] = simulate(make_case(-1.0, 0.25, from_size=8), 3).rates
    assert (rates.wrong, rates.contradicted, rates.early, rates.open, rates.units) == (0, 0, 0, 0, 8)


def test_an_interval_beside_the_truth_is_a_miss_and_what_follows_from_it_is_wrong() -> None:
    result = simulate(make_case(1.0, 2.0), 3)
    assert (result.low_missed, result.high_missed, result.missed) == (1, 0, 1)
    assert (result.rates[0].wrong, result.rates[0].contradicted, result.rates[0].units) == (1, 0, 4)


@pytest.mark.parametrize(("end", "counted"), [(0.25, (1, 0)), (0.75, (0, 1))])
def test_a_verdict_that_the_whole_stream_does_not_bear_out_is_contradicted_or_early(
    end: float, counted: tuple[int, int]
) -> None:
    def bound(_: Indices, confidence: float) -> Bounds:
        """Be sure of too much at a look, and of the contrary or of nothing of the whole."""
        return (0.0, 1.0, 2.0) if confidence == EACH else (0.0, -1.0, end)

    [rates] = simulate(Case("figure", "model", "arm", 10, bound, "at most", (0.5,), (), (4,)), 3).rates
    assert (rates.contradicted, rates.early) == counted


def test_what_no_look_decides_is_open_and_never_wrong() -> None:
    [rates] = simulate(make_case(-1.0, 1.0), 3).rates
    assert (rates.wrong, rates.open, rates.units) == (0, 1, 16)


@pytest.mark.parametrize("model", MODELS)
def test_of_streams_of_real_windows_at_most_one_verdict_in_twenty_is_wrong(model: str) -> None:
    for case in list_cases(model):
        if case.kind.endswith(UNHELD):
            continue
        result = simulate(case, 100 if case.kind.endswith("% KLD") else 200)
        # Close to the truth a share is not told from 1 by windows that are all healed but for one in thirty.
        for rates in result.rates[: len(case.limits) if case.kind == SHARE else None]:
            assert rates.wrong <= 0.05, (case.kind, case.arm, rates)
            # Of 200 streams a hundredth is two; the page has the rates of 20,000.
            assert rates.contradicted <= 0.025, (case.kind, case.arm, rates)


@pytest.mark.parametrize("size", WINDOW_LOOKS[:4])
def test_the_interval_of_a_perplexity_ratio_covers_the_truth_as_often_as_it_says(size: int) -> None:
    for case in list_cases("smollm2-wikitext"):
        # Two standard deviations of 2,000 draws at 0.95 are 0.01.
        assert sum(measure_misses(case, size, CONFIDENCE, 2000)) == pytest.approx(0.05, abs=0.02), case.arm


def test_the_tables_go_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- errors -->\nold\n<!-- end of errors -->\nb\n", encoding="utf-8")
    results = [simulate(make_case(1.0, 2.0), 2)]
    write_between(page, "errors", list_errors(results))
    lines = page.read_text(encoding="utf-8").splitlines()
    assert (lines[:2], lines[-2:]) == (["a", "<!-- errors -->"], ["<!-- end of errors -->", "b"])
    assert lines[4] == "| figure | model | 1 | 100.00% | 100.00% / - | 0.00% / - | 0.00% / - | 4.0 to 4.0 |"


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- errors -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no marks for errors"):
        write_between(page, "errors", ["b"])
    assert page.read_text(encoding="utf-8") == "a\n<!-- errors -->\n"


def test_the_first_row_of_a_table_is_its_head() -> None:
    assert list(make_table([("a", "b"), (1, "c|d")])) == ["| a | b |", "|---|---|", "| 1 | c\\|d |"]


def test_the_soak_fails_if_one_of_its_parts_does_and_runs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"broken": lambda: 2, "sound": lambda: 0}
    monkeypatch.setattr(soak, "PARTS", parts)
    assert [soak.main([name]) for name in parts] == [1, 0]
    assert soak.main([]) == 1
    with pytest.raises(SystemExit):
        soak.main(["other"])


def test_what_is_not_caught_stands_out_in_the_table() -> None:
    way = CATALOGUE["sampling"]
    outcomes = [Outcome(1, (*way.caught_by, "b"), (), "", 0.0), Outcome(1, ("b",), way.caught_by, "", 0.0), None]
    assert [is_caught(way, outcome) for outcome in outcomes if outcome] == [True, False]
    assert [row[-1] for row in list_broken([(way, outcome) for outcome in outcomes])][1:] == [
        "b",
        "**not caught** (exit code 1)",
        "not run: needs ",
    ]
