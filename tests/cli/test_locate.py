from __future__ import annotations

import json

import pytest
from support.evidence import make_identity, make_location
from support.program import Program

from sw_audit.cli.locate import describe
from sw_audit.record.location import Outcome


def test_json_is_exactly_one_object_of_the_promised_form_and_holds_the_published_coordinate(
    program: Program,
) -> None:
    ending = program.run("locate", "specimen", "--json", "--digest")
    assert ending.code == 0
    found = json.loads(ending.out)
    assert found["schema"] == 1
    assert found["model"]["family"] == "llama"
    assert found["model"]["layers"] >= 6
    assert len(found["model"]["digest"]) == 64
    assert found["outcome"] == "located"
    (weight,) = found["super_weights"]
    assert list(weight) == ["parameter", "layer", "row", "column", "expert", "value", "share"]
    assert weight["parameter"] == f"model.layers.{weight['layer']}.mlp.down_proj.weight"
    assert (weight["layer"], weight["row"], weight["column"], weight["expert"]) == (1, 5, 7, None)
    activation = found["super_activations"][0]
    assert list(activation) == ["channel", "token", "value", "first_layer", "last_layer", "taken_down"]
    assert (found["earlier_stages"], found["rotation"]) == ([], None)
    assert activation["channel"] == weight["row"]
    assert any(candidate["accepted"] for candidate in found["candidates"])


def test_early_depth_reads_fewer_layers_and_says_so(program: Program) -> None:
    found = json.loads(program.run("locate", "specimen", "--json", "--depth=early").out)
    assert (found["depth"], found["layers_seen"]) == ("early", 4)
    (weight,) = found["super_weights"]
    assert (weight["layer"], weight["row"], weight["column"]) == (1, 5, 7)
    ending = program.run("locate", "specimen", "--depth=early")
    assert "only the first 4 layers were read: what persists beyond them is not known" in ending.out


def test_for_people_there_are_tables(program: Program) -> None:
    ending = program.run("locate", "specimen")
    assert ending.code == 0
    for word in ("located", "super weights", "super activations", "model.layers.1.mlp.down_proj.weight"):
        assert word in ending.out


def test_no_super_weight_is_an_answer_too_and_files_are_digested_only_where_that_is_asked_for(
    program: Program,
) -> None:
    ending = program.run("locate", "control", "--json")
    document = json.loads(ending.out)
    assert (ending.code, document["outcome"], document["super_weights"]) == (0, "none", [])
    assert document["model"]["digest"] is None


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_the_same_form(outcome: Outcome) -> None:
    found = describe(make_identity(), make_location(outcome))
    assert found["outcome"] == str(outcome)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["./none"], "there is no such folder"),
        (["specimen", "--device=nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_opened_is_one_line(program: Program, arguments: list[str], told: str) -> None:
    ending = program.run("locate", *arguments, "--json")
    assert (ending.code, ending.out) == (2, "")
    assert [told in line for line in ending.complaints] == [True]


def test_a_dtype_that_there_is_not_is_a_usage_error(program: Program) -> None:
    assert program.run("locate", "specimen", "--dtype=int3").code == 2
