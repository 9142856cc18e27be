from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.backends import write_few_choices
from support.comparison import FAILED, MISSING, make_comparison, make_comparison_record
from support.program import Program

from sw_audit.cli.comparison import conclude, print_comparison
from sw_audit.record.store import read_record

FAST = ("compare-quantizers", "specimen", "--windows", 8, "--recipes", "int4/tensor", "--methods", "none")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    folder = tmp_path / "here"
    folder.mkdir()
    return Program(folder)


@pytest.fixture
def fast(tmp_path: Path) -> tuple[object, ...]:
    policy = tmp_path / "few.toml"
    policy.write_text(f"[corpus]\nchoices = {json.dumps(write_few_choices(tmp_path))}\n")
    return (*FAST, "--policy", policy)


def test_the_table_has_a_row_per_quantizer_and_a_record_and_a_report_are_written_on_request(
    program: Program, fast: tuple[object, ...]
) -> None:
    ending = program.run(*fast, "--out", program.folder / "out")
    assert ending.code == 0
    lines = ending.out.splitlines()
    assert lines[0].startswith("specimen  llama, 6 layers")
    assert any("held out: model.layers.1.mlp.down_proj.weight[5, 7]" in line for line in lines)
    starts = [line.split("  ")[0].strip() for line in lines]
    assert "int4/tensor" in starts
    assert "int4/tensor, held out" in starts
    assert lines[-1].startswith("COMPARED: 2 of 2 measured; least loss at 5 bits or fewer: int4/tensor, held out")
    assert program.files() == ["out/record.json", "out/report.html"]
    record = read_record(program.folder / "out" / "record.json")
    assert read_record(program.folder / "out" / "report.html") == record
    assert [row.name for row in record.results[0].comparison.rows] == ["int4/tensor", "int4/tensor, held out"]


def test_quiet_is_the_last_line_only_and_no_report_is_written_where_none_is_wanted(
    program: Program, fast: tuple[object, ...]
) -> None:
    ending = program.run(*fast, "-q", "--out", program.folder / "plain", "--no-report")
    assert len(ending.out.splitlines()) == 1
    assert ending.out.startswith("COMPARED")
    assert program.files() == ["plain/record.json"]


def test_json_is_exactly_one_object(program: Program, fast: tuple[object, ...]) -> None:
    document = json.loads(program.run(*fast, "--json").out)
    assert document["schema"] == 1
    assert [row["name"] for row in document["rows"]] == ["int4/tensor", "int4/tensor, held out"]
    assert document["rows"][1]["hold_out"] == "held"
    assert document["rows"][1]["quality"]["ratio"] < document["rows"][0]["quality"]["ratio"]
    assert document["protocol"]["windows"] == 8
    assert document["model"]["layers"] == 6
    assert program.files() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("specimen", "--methods", "bitsandbytes-nf5"), "write 'bitsandbytes-nf4'"),
        (("specimen", "--methods", "none", "--recipes", "int9/row"), "recipe 'int9/row'"),
        (("no/such/folder",), "no/such/folder"),
        (("specimen", "--methods", "none", "--corpus", "no/such/text.txt"), "there is no such file"),
        (("specimen", "--methods", "none", "--policy", "no-such.toml"), "policy no-such.toml"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    program: Program, arguments: tuple[str, ...], words: str
) -> None:
    ending = program.run("compare-quantizers", *arguments)
    assert ending.code == 2
    assert ending.out == ""
    assert len(ending.complaints) == 1
    assert words in ending.complaints[0]


def test_a_run_in_which_nothing_could_be_measured_ends_in_3(program: Program, tmp_path: Path) -> None:
    policy = tmp_path / "none.toml"
    policy.write_text("[quantization]\nrecipes = []\n[corpus]\nwindows = 8\n")
    ending = program.run("compare-quantizers", "specimen", "--policy", policy, "--methods", "none")
    assert ending.code == 3
    assert ending.out.splitlines()[-1] == "NOTHING COMPARED"


def test_what_was_not_measured_is_said_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(make_comparison_record(), {}, quiet=False)
    out = capsys.readouterr().out
    assert f"not measured gptqmodel-gptq: {MISSING}" in out
    assert f"not measured torchao-int4: {FAILED}" in out
    assert "bitsandbytes-nf4: 6 matrices stay as they are, and their bits count" in out
    (line,) = [line for line in out.splitlines() if line.strip().startswith("int4/tensor  ")]
    assert "not finite" in line


def test_the_least_loss_is_sought_among_few_bits_and_never_where_it_is_not_finite() -> None:
    ending = conclude(make_comparison())
    assert ending == (
        "COMPARED: 7 of 9 measured; least loss at 5 bits or fewer: int4/group64, held out, "
        "perplexity x 1.006 at 4.5 bits"
    )
