"""`sw-audit bits`: a sheet for people and programs, and a digest file that finds a flipped bit."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from support.program import Program

from sw_audit.record.address import ScalarAddress
from sw_audit.record.bits import FlippedBit
from sw_audit.record.critical import Effect
from sw_audit.runner.bits import tabulate_bits
from sw_audit.specimen.shipped import specimen_path

SUPER_WEIGHT = "model.layers.1.mlp.down_proj.weight[5, 7]"


def test_the_bits_of_a_named_scalar_are_printed_written_and_checked(program: Program, tmp_path: Path) -> None:
    ending = program.run("bits", "specimen", "--scalar", SUPER_WEIGHT, "--windows=4", "--out=sheet")
    assert ending.code == 0
    assert "32 bits of 1 scalar" in ending.out
    assert "331047" in ending.out
    sheet = json.loads((tmp_path / "sheet/bits.json").read_text())
    assert (sheet["schema"], len(sheet["bits"]), sheet["unplaced"]) == (1, 32, [])
    rows = list(csv.DictReader((tmp_path / "sheet/bits.csv").read_text().splitlines()))
    assert [int(row["rank"]) for row in rows] == list(range(1, 33))
    assert {row["file"] for row in rows} == {"model.safetensors"}
    worst, told = rows[0], sheet["bits"][0]
    assert (int(worst["byte_offset"]), int(worst["bit"])) == (told["offset"], told["bit"])
    assert int(worst["byte_before"], 16) ^ int(worst["byte_after"], 16) == 1 << told["bit"]

    check = ("bits", "--check=sheet/critical-bytes.json")
    same = program.run(*check, specimen_path())
    assert (same.code, same.out.splitlines()) == (
        0, ["unchanged: every byte that the digest file names is what it was"]
    )  # fmt: skip
    shutil.copyfile(specimen_path() / "model.safetensors", "model.safetensors")
    held = bytearray(Path("model.safetensors").read_bytes())
    held[told["offset"]] ^= 1 << told["bit"]
    Path("model.safetensors").write_bytes(held)
    other = program.run(*check, tmp_path)
    assert (other.code, other.out.splitlines()) == (
        1,
        ["changed: model.safetensors, bytes 331044 to 331047: changed"],
    )


def test_json_is_exactly_one_object(program: Program) -> None:
    ending = program.run("bits", "specimen", "--scalar", "model.norm.weight[5]", "--windows=4", "--json")
    sheet = json.loads(ending.out)
    assert sheet["scalars"] == [{"parameter": "model.norm.weight", "index": [5]}]
    assert not sheet["bits"][0]["finite"]
    assert sheet["bits"][0]["after"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("specimen", "--scalar=model.norm.weight"), "this is no address of a scalar"),
        (("specimen", "--scalar=nothing[1]"), "the model has no parameter of that name"),
        (("specimen", "--scalar=model.norm.weight[64]"), "the parameter is 64"),
        (("nowhere/at/all",), "there is no such folder"),
        (("specimen", "--check=nothing.json"), "No such file"),
        (("nowhere", "--check=digest.json"), "there is none"),
    ],
)
def test_bad_input_ends_in_one_line(program: Program, arguments: tuple[str, ...], said: str) -> None:
    digest = {"schema": 1, "files": [{"name": "a", "ranges": [{"offset": 0, "length": 1, "sha256": "0" * 64}]}]}
    line = f"a\t0\t1\t{'0' * 64}\n"
    Path("digest.json").write_text(json.dumps({**digest, "sha256": hashlib.sha256(line.encode()).hexdigest()}))
    ending = program.run("bits", *arguments)
    assert ending.code == 2
    assert said in ending.err
    assert len(ending.complaints) == 1


def test_a_file_s_name_is_no_formula_in_a_table() -> None:
    bit = FlippedBit(
        scalar=ScalarAddress(parameter="a", index=(0,)),
        tensor="@sum",
        dtype="F32",
        file="=cmd|' /C calc'!A0.gguf",
        offset=3,
        bit=7,
        part="number",
        kind="sign",
        byte=0x3F,
        before=1.0,
        after=-1.0,
        changed=1,
        effect=Effect(ratio=2.0, windows=1),
    )
    [_, row] = list(csv.reader(tabulate_bits([bit]).splitlines()))
    assert not any(cell.startswith(("=", "@", "+")) for cell in row)
    assert (row[12], row[13], row[15]) == ("0x3f", "0xbf", "2.0")
