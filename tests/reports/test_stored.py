"""The sections on how a model is stored: its quantization, and what a look at its files found."""

from __future__ import annotations

from support.descent_pages import MODULE, make_flawed, make_quantization
from sw_audit_reports.page import Table
from sw_audit_reports.stored import build_files, build_stored

from sw_audit.record.weights import Flaw, WeightsReport


def read(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[cell.text for cell in row] for row in table.rows]


def test_the_rounding_error_of_the_scalar_is_told_in_steps_of_its_group() -> None:
    found = build_stored(make_quantization(kept=False))
    assert found is not None
    [row] = read(found.held)
    # 0.98 of 1.9268 is 1.888, and a step is 0.2.
    assert row[1] == "4 bits, one scale per 32 inputs"
    assert row[-1] == "9.44"
    kept = build_stored(make_quantization(kept=True))
    assert kept is not None
    assert read(kept.held)[0][-1] == "0"


def test_patterns_ways_and_what_was_left_out_are_listed() -> None:
    found = build_stored(make_quantization(kept=True))
    assert found is not None
    assert read(found.patterns) == [["lm_head", "ignore", "1"], ["re:.*experts.*", "ignore", "0"]]
    assert read(found.modules) == [["4 bits, one scale per 32 inputs", "4"]]
    assert read(found.left) == [["model.layers.5.mlp.experts.down_proj"]]
    assert "near those that it computes with: activations are rounded as well." in found.told


def test_weights_that_are_exact_are_said_to_be_and_no_report_is_no_section() -> None:
    exact = make_quantization(kept=True).model_copy(update={"exact": True, "because": "", "unquantized": ()})
    found = build_stored(exact)
    assert found is not None
    assert found.told.endswith("The weights that were read are exactly those that it computes with.")
    assert found.left is None
    assert build_stored(None) is None
    assert build_files(None) is None


def test_flaws_are_listed_with_what_to_do_and_others_are_counted() -> None:
    found = build_files(make_flawed())
    assert found is not None
    told = "".join(cell.text for cell in found.told)
    assert told == (
        "1 weight file with 93 tensors looked at, 51 of them value by value. 43 things found, of which these are "
        "listed. What to do: put the quantization_config back into config.json."
    )
    assert found.flaws is not None
    assert [row[1].badge and row[1].badge.word for row in found.flaws.rows] == ["Broken", "Told"]
    assert read(found.flaws)[0][0] == f"{MODULE}.weight_packed"


def test_intact_files_are_said_to_be_and_a_manifest_is_told() -> None:
    found = build_files(WeightsReport(files=2, tensors=9, scanned=9, manifest=True))
    assert found is not None
    assert "".join(cell.text for cell in found.told) == (
        "2 weight files with 9 tensors looked at, 9 of them value by value. File digests were held against a "
        "manifest. Nothing is wrong with them."
    )
    assert found.flaws is None


def test_a_key_in_what_to_do_is_set_as_code() -> None:
    flaw = Flaw(kind="digest", where="model.safetensors", found="another one")
    report = WeightsReport(files=1, tensors=1, flaws=(flaw,), remedy="look at `config.json`")
    found = build_files(report)
    assert found is not None
    assert [cell.text for cell in found.told if cell.code] == ["config.json"]
