"""The text of a TOML file, read within bounds."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from sw_audit.errors import InputError, PolicyError
from sw_audit.index.reading import read_index
from sw_audit.policy.reading import parse_policy, read_policy
from sw_audit.runner.assignments import read_tool_table
from sw_audit.toml_text import parse_toml

HOSTILE = {
    "brackets": ("a = " + "[" * 100_000, "nested too deep"),
    "closed brackets": ("a = " + "[" * 100_000 + "]" * 100_000, "nested too deep"),
    "tables": ("a = " + "{a=" * 100_000, "nested too deep"),
    "digits": ("a = " + "1" * 5_000, "an integer has thousands of digits"),
    "hexadecimal digits": ("a = 0x" + "f" * 5_000, "an integer has thousands of digits"),
    "dotted key": ("\n" + ".".join(["a"] * 5_000) + " = 1", r"a key has more than 20 parts \(at line 2\)"),
    "dotted key of 100,000": (".".join(["a"] * 100_000) + " = 1", "a key has more than 20 parts"),
    "dotted table": ("[" + ".".join(["'a b'"] * 5_000) + "]", "a key has more than 20 parts"),
    "size": ("#" * 4_000_001, "it has 4,000,001 characters, more than 4,000,000"),
    "no TOML": ("a", "Expected '='"),
}
each = pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)


def test_what_ships_reads_as_the_library_reads_it() -> None:
    text = resources.files("sw_audit.index").joinpath("published.toml").read_text(encoding="utf-8")
    assert parse_toml(text) == tomllib.loads(text)


def test_dots_in_texts_and_numbers_are_no_parts_of_a_key() -> None:
    text = f'note = "{"a sentence. " * 100}"\nfigures = [{", ".join(["1.5"] * 1_000)}]\npath = "{"a/" * 100}"\n'
    assert parse_toml(text) == tomllib.loads(text)


@each
def test_what_would_exhaust_the_library_is_a_value_error(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_toml(text)


@each
def test_in_a_policy_an_index_and_pyproject_it_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    for read in (read_policy, read_index):
        with pytest.raises(InputError, match=f"it is not TOML: .*{words}") as caught:
            read(path)
        assert len(str(caught.value)) < 500
    with pytest.raises(PolicyError, match="it is not a table of TOML"):
        read_tool_table(path)


@pytest.mark.parametrize("text", ["tool = 1", "[tool]\nsw_audit = 1"])
def test_a_tool_table_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(PolicyError, match="it is not a table of TOML"):
        read_tool_table(tmp_path / "pyproject.toml")


def test_a_name_that_is_not_utf_8_is_refused_in_one_line() -> None:
    source = b"models/caf\xe9".decode("utf-8", "surrogateescape")
    with pytest.raises(PolicyError) as caught:
        parse_policy({"model": [{"source": source}]}, "options")
    assert r"caf\udce9" in str(caught.value)
    assert str(caught.value).endswith("this name is not text in UTF-8; rename the file or folder")
