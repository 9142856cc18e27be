"""Facts stay facts: no other file lists ids of checks, and nothing is decided by parsing a name or a label."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sw_audit.checks.registry import find_checks

ROOT = Path(__file__).parents[2]
PACKAGES = ("sw_audit", "plugins/pytest_sw_audit", "reports/sw_audit_reports")
DECIDING = ("sw_audit/checks", "sw_audit/runner", "plugins/pytest_sw_audit", "reports/sw_audit_reports")
TEMPLATES = {".j2", ".css", ".js", ".toml"}
PARSING = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "split"}
WORDS = re.compile(r"\b(arm|label|quantity|title|because)\b")
"""Of what is said to people, what tempts to be read back."""


def list_files(packages: tuple[str, ...], endings: set[str]) -> list[Path]:
    files = (file for package in packages for file in (ROOT / package).rglob("*"))
    return sorted(file for file in files if file.suffix in endings)


def list_literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that is no docstring."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def list_parsed(tree: ast.AST) -> Iterator[int]:
    """Yield the line of everything that takes a name, a label or a sentence apart, or looks for words in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARSING:
            parsed: list[ast.expr] = [node.func.value]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            parsed = [node.comparators[0]] if isinstance(node.left, ast.Constant | ast.JoinedStr) else []
        else:
            continue
        if any(WORDS.search(ast.unparse(expression)) for expression in parsed):
            yield node.lineno


def test_an_id_of_a_check_stands_in_the_checks_own_file_alone() -> None:
    ids = {name: re.compile(rf"(?<![\w-]){name}(?![\w-])") for name in find_checks()}
    said = [
        (file, line, text)
        for file in list_files(PACKAGES, {".py"})
        for line, text in list_literals(ast.parse(file.read_text(encoding="utf-8")))
    ]
    said += [(file, 0, file.read_text(encoding="utf-8")) for file in list_files(PACKAGES, TEMPLATES)]
    wrong = [
        f"{file.relative_to(ROOT)}:{line} names {name}"
        for file, line, text in said
        for name, pattern in ids.items()
        if pattern.search(text) and file != ROOT / f"sw_audit/checks/{name.replace('-', '_')}.py"
    ]
    assert wrong == []


def test_no_name_of_an_arm_no_label_and_no_sentence_is_taken_apart() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in list_files(DECIDING, {".py"})
        for line in list_parsed(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert wrong == []


def test_the_readers_see_literals_and_parsing_and_spare_prose() -> None:
    tree = ast.parse(
        '"""Prose."""\nx = f"literal {y}"\n'
        'arm.name.startswith("a")\n"by itself" in worst.label\npath.name.endswith(".py")\nx in labels\n'
    )
    assert list(list_literals(tree)) == [(2, "literal "), (3, "a"), (4, "by itself"), (5, ".py")]
    assert sorted(list_parsed(tree)) == [3, 4]
