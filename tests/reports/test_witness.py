from __future__ import annotations

from support.evidence import PREDICTION, make_location, make_record
from support.pages import parse_page
from sw_audit_reports.html import render_html
from sw_audit_reports.tables import list_witness

from sw_audit.record.location import Outcome


def test_what_the_weights_alone_say_has_one_line_per_super_weight() -> None:
    table = list_witness(make_location())
    assert table is not None
    [row] = table.rows
    assert [cell.text for cell in row] == [
        "model.layers.1.mlp.down_proj.weight[37, 211]", "1 of 128", "31.6", "1 of 344", "94.2 %", "yes",
    ]  # fmt: skip


def test_a_witness_that_does_not_agree_says_so_and_a_missing_figure_is_not_made_up() -> None:
    changes = {"agrees": False, "row_rank": 12, "row_ratio": None, "share": None}
    doubtful = PREDICTION.model_copy(update={"weights": (PREDICTION.weights[0].model_copy(update=changes),)})
    table = list_witness(make_location().model_copy(update={"weight_norm_prediction": doubtful}))
    assert table is not None
    texts = [cell.text for cell in table.rows[0]]
    assert texts[1] == "12 of 128"
    assert texts[2] == texts[4] == "\N{EN DASH}"
    assert texts[5] == "no"


def test_without_a_witness_there_is_no_table() -> None:
    assert list_witness(make_location(Outcome.NONE)) is None
    assert list_witness(make_location().model_copy(update={"weight_norm_prediction": None})) is None


def test_the_report_shows_it_under_what_was_found() -> None:
    page = parse_page(render_html(make_record(windows=8, items=8)))
    found, charts = page.text.index("What was found"), page.text.index("What it does")
    assert found < page.text.index("Second opinion: the weights alone") < charts
