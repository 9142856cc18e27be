"""The questions: which they are, what comes of a file of one's own, and what is said of a bad one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sw_audit.corpus.choices import ENGLISH_ITEMS, read_items
from sw_audit.corpus.decisions import OPENINGS, DecisionItem, read_decisions
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import DescentPolicy, Policy

ALL = Policy(effort="thorough")
OWN: dict[str, Any] = {
    "kind": "pick",
    "name": "a",
    "prompt": "the fox",
    "openings": {"ran": ["ran"], "sang": ["sang"]},
}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"a": "One."}}


def read_own(tmp_path: Path, *lines: Any) -> tuple[DecisionItem, ...]:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return read_decisions(Policy(descent=DescentPolicy(decisions=str(path))))


def test_there_are_sixty_of_two_kinds_and_a_hundred_of_the_third_half_of_them_either_way() -> None:
    items = read_decisions(ALL)
    assert Counter(item.kind for item in items) == {"refuse": 60, "tool": 60, "yes": 100}
    assert Counter(item.kind for item in items if item.expected) == {"refuse": 30, "tool": 30, "yes": 50}
    assert (
        len({(item.kind, item.name) for item in items}) == len({(item.kind, item.prompt) for item in items}) == 220
    )
    assert all(bool(item.tool) == (item.kind == "tool") for item in items)


def test_by_default_there_are_thirty_of_each_half_of_them_either_way() -> None:
    items = read_decisions(Policy())
    assert Counter(item.kind for item in items) == {"refuse": 30, "tool": 30, "yes": 30}
    assert Counter(item.kind for item in items if item.expected) == {"refuse": 15, "tool": 15, "yes": 15}
    assert len(read_decisions(Policy(descent=DescentPolicy(decisions_limit=7)))) == 21


def test_what_is_asked_of_an_end_is_true_of_every_second_one() -> None:
    known = {item.context: item for item in read_items(ENGLISH_ITEMS, "items")}
    for item in read_decisions(ALL):
        if item.kind == "yes":
            [context] = [context for context in known if item.prompt.startswith(f"{context} ")]
            end = item.prompt.removeprefix(f"{context} ").partition(".\n")[0]
            assert end in known[context].choices
            assert (end == known[context].choices[known[context].answer]) is item.expected


def test_no_opening_begins_an_answer_of_both_decisions() -> None:
    for one, other in (openings.values() for openings in OPENINGS.values()):
        assert not [(a, b) for a in one for b in other if a.startswith(b) or b.startswith(a)]


def test_a_file_of_ones_own_stands_in_place_of_the_built_in_questions(tmp_path: Path) -> None:
    tool = {"kind": "tool", "name": "b", "prompt": "1 + 1?", "tool": TOOL, "expected": True}
    first, second = read_own(tmp_path, OWN, "", tool)
    assert (first.kind, dict(first.openings), first.expected, first.own) == (
        "pick",
        {"ran": ("ran",), "sang": ("sang",)},
        None,
        True,
    )
    assert (second.openings, second.tool, second.expected) == (OPENINGS["tool"], TOOL, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ({**OWN, "name": " "}, "'name' is not a text"),
        ({**OWN, "prompt": 3}, "'prompt' is not a text"),
        ({**OWN, "own": True}, "'own' is no key"),
        ({**OWN, "answer": 1}, "'answer' is no key"),
        ({**OWN, "expected": "yes"}, "'expected' is not true or false"),
        ({**OWN, "openings": ["ran"]}, "'openings' does not name two decisions"),
        ({**OWN, "openings": {"ran": ["ran"]}}, "'openings' does not name two decisions"),
        ({**OWN, "openings": {"ran": ["ran"], "sang": []}}, "a list of texts for each"),
        ({**OWN, "openings": {"ran": ["ran"], "sang": [" "]}}, "a list of texts for each"),
        (
            {**OWN, "openings": {"ran": ["ran"], "sang": ["ran away"]}},
            "the opening 'ran' begins an answer of both",
        ),
        ({"kind": "pick", "name": "a", "prompt": "b"}, "the kind 'pick' has no openings"),
        ({"kind": "tool", "name": "a", "prompt": "b"}, "'tool' is missing"),
        (
            {"kind": "tool", "name": "a", "prompt": "b", "tool": {"name": "c"}},
            "a name, a description and parameters",
        ),
        ({"kind": "tool", "name": "a", "prompt": "b", "tool": {**TOOL, "parameters": [1]}}, "are not named"),
        ({"kind": "tool", "name": "a", "prompt": "b", "tool": {**TOOL, "name": 1}}, "has what is not a text"),
    ],
)
def test_a_line_that_is_no_question_is_told_by_its_number(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(CorpusError, match="line 2") as error:
        read_own(tmp_path, OWN, line)
    assert said in str(error.value)


def test_questions_of_one_name_or_of_other_decisions_are_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="line 1 has the same kind and name, 'a'"):
        read_own(tmp_path, OWN, OWN)
    with pytest.raises(CorpusError, match="the kind 'pick' decides between ran and sang"):
        read_own(tmp_path, OWN, {**OWN, "name": "b", "openings": {"sang": ["sang"], "ran": ["ran"]}})
    with pytest.raises(CorpusError, match="the kind 'yes' decides between yes and no"):
        read_own(tmp_path, {**OWN, "kind": "yes"})


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="the file is empty"):
        read_own(tmp_path, "")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_decisions(Policy(descent=DescentPolicy(decisions=str(tmp_path / "none.jsonl"))))
    (tmp_path / "bad.jsonl").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match="byte 0 is not UTF-8"):
        read_decisions(Policy(descent=DescentPolicy(decisions=str(tmp_path / "bad.jsonl"))))
