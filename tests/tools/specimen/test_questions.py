"""Questions have one answer, and what ships is what the recipe tells."""

from __future__ import annotations

from pathlib import Path

from sw_audit.specimen import choices_path, corpus_path
from sw_audit.specimen.language import KINDS
from tools.specimen.questions import ask_choices, write_exhibits


def test_distractors_are_of_the_answer_s_kind() -> None:
    for item in ask_choices(3, 40, 127):
        assert any(set(item.choices) <= set(kind) for kind in KINDS.values())


def test_the_shipped_corpus_and_questions_are_told_again_to_the_letter(tmp_path: Path) -> None:
    write_exhibits(tmp_path, 128)
    assert (tmp_path / "corpus.txt").read_bytes() == corpus_path().read_bytes()
    assert (tmp_path / "choices.jsonl").read_bytes() == choices_path().read_bytes()
