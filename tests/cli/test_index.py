from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.critical import make_rich_search, make_scalar, make_search
from support.evidence import make_identity, make_location
from typer.testing import CliRunner, Result

from sw_audit.cli.index import update_own_index
from sw_audit.cli.main import app
from sw_audit.index.reading import read_index, read_published
from sw_audit.record.critical import CriticalSearch


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="sw-audit")


def flatten(text: str) -> str:
    """One line: where a text is broken depends on the width of the terminal."""
    return " ".join(text.split())


def test_a_published_coordinate_is_printed_with_its_sources() -> None:
    result = run("index", "huggyllama/LLAMA-7b")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "huggyllama/llama-7b"
    head, row = (line.split() for line in lines if line.startswith(("layer ", "2 ")))
    assert dict(zip(head[:5], row[:5], strict=True)) == {
        "layer": "2", "row": "3968", "column": "7003", "value": "-1.9268", "bearing": "alone",
    }  # fmt: skip
    assert "".join(row[5:]).split(",") == ["TEX", "CODE", "BYU", "GSL", "KNELL"]
    told = flatten(result.stdout)
    assert "[TEX] Mengxia Yu, De Wang, Qi Shan, Colorado Reed, Alvin Wan, 2024: The Super Weight" in told
    assert "arXiv 2411.07191v2" in told
    assert (
        "layer 2 [3968, 7003]: wikitext-2 perplexity 5.67 -> 1211.11, C4 perplexity 7.08 -> 763.65 [TEX]" in told
    )
    assert "0:35.15, 0.1:50.24" in told
    assert "sources disagree Issue #7: a user reports coherent text" in told


def test_a_disagreement_stands_before_the_figures_with_its_reason() -> None:
    told = flatten(run("index", "allenai/OLMo-1B-0724-hf").stdout)
    reason = told.index("The code is right: of 16,777,216 weights, +0.0018 in layer 1 ranks 13,035,937th")
    assert told.index("sources disagree Table 2 of the paper puts [1764, 8041] in layer 1") < reason
    assert reason < told.index("x3667")
    assert "allenai/OLMo-1B-0724-hf" in flatten(run("index").stdout).partition("sources disagree about ")[2]


def test_what_a_source_says_of_several_scalars_is_printed_once() -> None:
    told = flatten(run("index", "microsoft/Phi-3-mini-4k-instruct").stdout)
    assert told.count("x1.00 to x1.02") == 1
    assert "layer 4 [1113, 2723], layer 4 [1693, 2723], each alone: x1.00 to x1.02 [BYU]" in told
    assert "together: all six: perplexity 9.48 -> 3,543 (x374) [SUBR]" in told


def test_a_variant_is_told_whose_coordinates_these_are_and_what_is_disputed() -> None:
    lines = run("index", "mistralai/Mistral-7B-Instruct-v0.1").stdout.splitlines()
    assert lines[0] == "mistralai/Mistral-7B-v0.1"
    assert lines[1].startswith("asked for mistralai/Mistral-7B-Instruct-v0.1: ")
    assert "criticality is disputed" in " ".join(lines[1:4])


def test_a_table_is_as_wide_as_it_needs_so_that_ids_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "60")
    lines = run("index").stdout.splitlines()
    rows = [line for line in lines if "CODE, " in line or "GSL" in line]
    assert max(len(line) for line in rows) > 60
    for model in read_published().models:
        assert any(line.startswith(f"{model.id} ") for line in lines)
    prose = lines[lines.index(next(line for line in lines if line.startswith("bearing"))) :]
    assert all(len(line) <= 60 or len(line.split()) < 4 for line in prose)


def test_one_model_as_json_carries_everything() -> None:
    result = run("index", "huggyllama/LLAMA-7b", "--json")
    document = json.loads(result.stdout)
    assert (document["schema"], document["asked"], document["match"]) == (1, "huggyllama/LLAMA-7b", "listed")
    [weight] = document["model"]["weights"]
    assert (weight["layer"], weight["row"], weight["column"], weight["value"]) == (2, 3968, 7003, -1.9268)
    assert set(weight["sources"]) <= {source["key"] for source in document["sources"]}


def test_all_models_are_listed() -> None:
    result = run("index")
    assert result.exit_code == 0
    for model in read_published().models:
        assert model.id in result.stdout
    document = json.loads(run("index", "--json").stdout)
    assert [model["id"] for model in document["models"]] == [model.id for model in read_published().models]


def test_a_file_is_known_by_its_sha256_whatever_it_is_called(tmp_path: Path) -> None:
    file, own = tmp_path / "renamed.gguf", tmp_path / "own.toml"
    file.write_bytes(b"GGUF")
    digest = hashlib.sha256(b"GGUF").hexdigest()
    own.write_text(f'sw-audit-index = 1\n[[model]]\nid = "me/mine"\ndigests = ["{digest}"]\n')
    result = run("index", str(file), "--file", str(own))
    assert result.exit_code == 0
    assert result.stdout.startswith("me/mine\n")
    file.write_bytes(b"GGUF 2")
    assert run("index", str(file), "--file", str(own)).exit_code == 3


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_unknown_model_is_one_line_with_the_nearest_names_and_exit_code_3(more: tuple[str, ...]) -> None:
    result = run("index", "someone/lama-7b", *more)
    assert result.exit_code == 3
    [line] = result.stderr.splitlines()
    assert line.startswith("sw-audit: the index has no entry for 'someone/lama-7b'")
    assert "the nearest are huggyllama/llama-7b" in line
    if more:
        document = json.loads(result.stdout)
        assert (document["match"], document["model"]) == ("none", None)
        assert document["nearest"][0] == "huggyllama/llama-7b"
    else:
        assert result.stdout == ""


def test_a_file_that_is_no_index_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[tool]\n")
    for arguments in (["index", "--file"], ["locate", "specimen", "--update-index"]):
        result = run(*arguments, str(tmp_path / "x.toml"))
        assert result.exit_code == 2
        [line] = result.stderr.splitlines()
        assert "it is not an index" in line
    assert (tmp_path / "x.toml").read_text() == "[tool]\n"


def test_what_locate_finds_is_added_to_an_index_of_ones_own_and_shown(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    first = run("locate", "specimen", "--json", "--update-index", str(file))
    assert first.exit_code == 0
    document = json.loads(first.stdout)
    assert f"added to {file}" in first.stderr
    again = run("locate", "specimen", "--update-index", str(file))
    assert again.exit_code == 0
    assert "already" in again.stderr
    index = read_index(file)
    [model], [source] = index.models, index.sources
    [weight], [located] = model.weights, document["super_weights"]
    assert [weight.layer, weight.row, weight.column] == [located["layer"], located["row"], located["column"]]
    assert source.finding is not None
    assert source.finding.digest == document["model"]["digest"]
    assert source.finding.settings
    shown = run("index", "specimen", "--file", str(file))
    assert shown.exit_code == 0
    assert str(located["column"]) in shown.stdout
    assert source.finding.prompt in flatten(shown.stdout)
    assert run("index", "specimen").exit_code == 3


@pytest.mark.parametrize("name", ["no/such/folder.toml", "a-file/mine.toml"])
def test_an_index_that_could_not_be_written_is_told_before_the_model_is_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").touch()
    result = run("locate", "./no-such-model", "--update-index", str(tmp_path / name))
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.endswith("it cannot be written there; name a file in a folder that exists")


def test_that_a_model_has_none_is_added_and_said_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    result = run("locate", "control", "--update-index", str(file))
    assert result.exit_code == 0
    assert "the outcome none of " in result.stderr
    shown = run("index", "control", "--file", str(file))
    assert shown.exit_code == 0
    assert "Outcome none: " in flatten(shown.stdout)


def test_locate_tells_what_the_weights_alone_say() -> None:
    result = run("locate", "specimen")
    assert result.exit_code == 0
    assert "second opinion: from the weights alone" in result.stdout
    [entry] = json.loads(run("locate", "specimen", "--json").stdout)["weight_norm_prediction"]["weights"]
    assert 1 <= entry["row_rank"] <= entry["rows"]
    assert json.loads(run("locate", "control", "--json").stdout)["weight_norm_prediction"] is None


def test_scalars_of_any_parameter_have_a_table_of_their_own(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        """sw-audit-index = 1
[[source]]
key = "ME"
title = "My notebook"
trust = "medium"
[[model]]
id = "me/mine"
[[model.weight]]
parameter = "model.norm.weight"
index = [17]
value = -1.25
bearing = "alone"
sources = ["ME"]
effects = [{ zeroed = "weight", words = "x22", source = "ME" }]
"""
    )
    one = run("index", "me/mine", "--file", str(own)).stdout
    assert ["model.norm.weight[17]", "-1.25", "alone", "ME"] in [line.split() for line in one.splitlines()]
    assert "column" not in one
    assert "model.norm.weight[17]: x22 [ME]" in one
    every = run("index", "--file", str(own)).stdout
    [line] = [line for line in every.splitlines() if line.startswith("me/mine")]
    assert line.split() == ["me/mine", "model.norm.weight[17]", "-1.25", "alone", "ME"]
    [weight] = json.loads(run("index", "me/mine", "--file", str(own), "--json").stdout)["model"]["weights"]
    assert (weight["parameter"], weight["index"], weight["row"]) == ("model.norm.weight", [17], None)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (make_rich_search(), "1 super weight and 6 scalars that matter of models/specimen"),
        (make_search(make_scalar("w", 1)), "1 super weight and 1 scalar that matters of models/specimen"),
        (None, "1 super weight of models/specimen"),
    ],
)
def test_what_is_entered_in_ones_own_index_is_said(
    tmp_path: Path, search: CriticalSearch | None, words: str
) -> None:
    file = tmp_path / "own.toml"
    said = update_own_index(file, make_identity(), make_location(), search)
    assert said == f"sw-audit: {words} added to {file}"
    found = [weight.scalar for weight in read_index(file).models[0].weights if weight.scalar is not None]
    assert found == [scalar.address for scalar in (search.critical if search else ()) if not scalar.located]
