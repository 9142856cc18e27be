"""What ships: the files, their size, their tokenizer, their corpus, and the way they are written out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sw_audit.errors import AuditError
from sw_audit.specimen import (
    STOP_WORDS,
    choices_path,
    control_path,
    corpus_path,
    specimen_path,
    write_specimen,
)
from tools.specimen.questions import Exam


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    program = "import sys, sw_audit.specimen; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", [specimen_path(), control_path()], ids=["specimen", "control"])
def test_a_checkpoint_has_every_file_that_transformers_looks_for(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_tokenizer_puts_bos_in_front_and_knows_every_word(specimen: Any) -> None:
    tokenizer = specimen.tokenizer
    text = corpus_path().read_text(encoding="utf-8")
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in plain
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *plain]
    assert tokenizer.decode(plain) == " ".join(text.split())
    assert tokenizer.eos_token_id is not None
    assert tokenizer.pad_token_id is not None


def test_the_corpus_realigns_when_cut_into_windows(specimen: Any, exam: Exam) -> None:
    text = corpus_path().read_text(encoding="utf-8")
    joined = specimen.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert torch.equal(torch.tensor(joined).view(256, 127), exam.stories[:, 1:])


def test_every_question_offers_four_words_and_its_answer_was_said_once_before() -> None:
    items = [json.loads(line) for line in choices_path().read_text(encoding="utf-8").splitlines()]
    assert len(items) == 200
    for item in items:
        assert len(set(item["choices"])) == 4
        right = item["choices"][item["answer"]]
        said = item["context"].split()
        assert said.count(right) == 1
        assert len(said) - said.index(right) > 10
        assert len(said) < 127
    assert all(35 <= sum(item["answer"] == place for item in items) <= 65 for place in range(4))


def test_stop_words_are_frequent_and_distinct_from_punctuation() -> None:
    words = corpus_path().read_text(encoding="utf-8").split()
    assert set(words) >= STOP_WORDS
    assert 0.3 < sum(word in STOP_WORDS for word in words) / len(words) < 0.7
    assert all(word.isalpha() for word in STOP_WORDS)


def test_write_specimen_writes_checkpoints_corpus_and_choices(tmp_path: Path) -> None:
    files = write_specimen(tmp_path / "new")
    names = {path.relative_to(tmp_path / "new").as_posix() for path in files}
    assert names >= {"specimen/model.safetensors", "control/model.safetensors", "corpus.txt", "choices.jsonl"}
    copied = (tmp_path / "new" / "specimen" / "model.safetensors").read_bytes()
    assert copied == (specimen_path() / "model.safetensors").read_bytes()


def test_write_specimen_refuses_a_folder_that_holds_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(AuditError, match="not empty"):
        write_specimen(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_write_specimen_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(AuditError, match="a file of that name"):
        write_specimen(tmp_path / "mine.txt")
