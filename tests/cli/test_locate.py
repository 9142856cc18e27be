from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.critical import (
    EMBEDDING,
    GAIN,
    LOCATED,
    NORM,
    make_rich_search,
    make_scalar,
    make_search,
    make_searched_location,
)
from support.evidence import make_identity, make_location
from support.program import Program

from sw_audit.cli.locate import describe, print_location
from sw_audit.index.reading import read_index
from sw_audit.record.location import Outcome
from sw_audit.record.published import Impact


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
    assert list(weight) == ["parameter", "layer", "row", "column", "expert", "value", "share", "impact"]
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


def test_without_a_search_impact_is_unconfirmed_and_nothing_is_said_of_critical_scalars() -> None:
    found = describe(make_identity(), make_location())
    assert [weight["impact"] for weight in found["super_weights"]] == ["unconfirmed"]
    assert not [key for key in found if key.startswith("critical")]


def test_json_tells_the_search_the_scalars_that_matter_and_their_sets() -> None:
    search = make_rich_search()
    found = describe(make_identity(), make_searched_location("inert"), search)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [weight["impact"] for weight in found["super_weights"]] == ["inert"]
    assert found["critical_search"] == {
        "text": "wikitext",
        "own_text": False,
        "window": 96,
        "windows": 2,
        "minimum_ratio": 1.1,
        "confidence": 0.95,
        "ranked": 134_515_008,
        "candidates": 128,
        "questions": 61,
        "notes": ["the gradient does not reach the router of layer 2"],
    }
    first = found["critical_scalars"][0]
    assert list(first) == ["parameter", "index", "value", "perplexity_ratio", "low", "high", "kind", "set"]
    assert (first["parameter"], first["index"], first["kind"], first["set"]) == (NORM, [17], "alone", None)
    assert (first["value"], first["perplexity_ratio"]) == (-1.2578125, 22.35)
    assert first["low"] < 22.35 < first["high"]
    assert [(one["kind"], one["set"]) for one in found["critical_scalars"]] == [
        ("alone", None), ("alone", None), ("alone", 0), ("together", 1), ("together", 1), ("masks", 2),
    ]  # fmt: skip
    only_in_a_set = found["critical_scalars"][4]
    assert [only_in_a_set[key] for key in ("perplexity_ratio", "low", "high")] == [None] * 3
    located, together, _ = found["critical_sets"]
    assert list(located) == ["kind", "members", "perplexity_ratio", "low", "high"]
    assert (located["kind"], located["perplexity_ratio"]) == ("located", 22603.0)
    assert together["members"] == [{"parameter": GAIN, "index": [7]}, {"parameter": EMBEDDING, "index": [11, 7]}]


def test_people_read_each_scalar_that_matters_whole_with_its_set_and_what_is_not_finite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "model.layers.12.block_sparse_moe.experts.gate_up_projection_of_all_experts_of_the_layer.weight"
    rich = make_rich_search()
    search = rich.model_copy(update={"scalars": (make_scalar(long, 3, 1200, 77, ratio=None), *rich.scalars)})
    print_location(make_identity(), make_searched_location(), search)
    lines = capsys.readouterr().out.splitlines()
    cells: dict[str, list[str]] = {}
    for line in lines:
        cells.setdefault(line.strip().split("  ")[0], line.split())
    assert cells["parameter"][-1] == "impact"
    assert cells[str(LOCATED.parameter)][-1] == "bearing"
    assert cells["scalar"] == [
        "scalar", "value", "zeroed", "interval", "negate", "matters", "set", "rank", "located",
    ]  # fmt: skip
    assert cells[f"{long}[3, 1200, 77]"][-8:] == ["not", "finite", "-", "-", "alone", "-", "-", "-"]
    assert cells[f"{NORM}[17]"] == [
        f"{NORM}[17]", "-1.25781", "22.35", "20.12", "to", "24.59", "9.06e+06", "alone", "-", "4", "-",
    ]  # fmt: skip
    assert cells[str(LOCATED)][-4:] == ["alone", "1", "5", "yes"]
    assert f"{EMBEDDING}[3, 3]" not in cells
    assert cells["2"][1:3] == ["together", "3.4"]
    assert "what masks was zeroed with the located set: times the perplexity of that set by itself" in lines
    assert search.summary in lines
    assert "note: the gradient does not reach the router of layer 2" in lines
    assert "located super weights: 1 bearing" in lines


def test_people_are_told_where_nothing_matters_and_what_is_located_is_inert(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_location(make_identity(), make_searched_location("inert"), make_search())
    lines = capsys.readouterr().out.splitlines()
    nothing = "none of 128 candidates is known to multiply perplexity by 1.1 or more"
    assert f"on wikitext (2 windows of 96 tokens) {nothing}" in lines
    assert "located super weights: 1 inert" in lines
    assert not any(line.startswith((" scalar ", " set ")) for line in lines)


def test_what_a_search_finds_is_entered_in_ones_own_index(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    arguments = ("--causal", "--candidates=8", "--windows=4", f"--update-index={file}")
    ending = program.run("locate", "specimen", "--json", *arguments)
    found = [(one["parameter"], tuple(one["index"])) for one in json.loads(ending.out)["critical_scalars"]]
    [model] = read_index(file).models
    entered = [weight.scalar for weight in model.weights if weight.scalar is not None]
    assert [(one.parameter, one.index) for one in entered] == [one for one in found if one[1] != (5, 7)]
    [super_weight] = [weight for weight in model.weights if weight.is_scalar]
    assert super_weight.bearing is Impact.ALONE


def test_a_policy_says_on_which_text_and_how_widely_is_searched_and_own_is_what_the_model_writes(
    program: Program, tmp_path: Path
) -> None:
    policy = tmp_path / "search.swaudit.toml"
    text = '[corpus]\nsource = "specimen"\nwindow = 48\nwindows = 5\nbos = "never"\n'
    policy.write_text(f"{text}[critical]\ncandidates = 8\nminimum_ratio = 1.5\n", encoding="utf-8")
    asked = ("locate", "specimen", "--causal", "--json", f"--policy={policy}")
    search = json.loads(program.run(*asked).out)["critical_search"]
    assert [search[key] for key in ("text", "own_text", "window", "windows")] == ["specimen", False, 48, 5]
    assert search["minimum_ratio"] == 1.5
    own = json.loads(program.run(*asked, "--corpus=own", "--candidates=4").out)
    assert own["critical_search"]["own_text"]
    assert own["critical_search"]["candidates"] < search["candidates"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--causal", "--candidates=0"), "key critical.candidates: 0 does not do"),
        (("--corpus=text.txt",), "--corpus: it says how scalars are searched for, and nothing is"),
        (("--candidates=5",), "--candidates: it says how scalars are searched for, and nothing is"),
        (("--causal", "--depth=early"), "--causal --depth early: what matters shows at the end"),
        (("--causal", "--corpus=nothere.txt"), "there is no such file"),
    ],
)
def test_what_cannot_be_searched_is_one_line_and_exit_code_2(
    program: Program, options: tuple[str, ...], said: str
) -> None:
    ending = program.run("locate", "specimen", *options)
    assert ending.code == 2
    assert ending.out == ""
    assert said in ending.err.splitlines()[-1]
