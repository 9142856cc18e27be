"""Weights and texts that are not those of the record are named file by file."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from support.evidence import compose, make_evidence

from sw_audit.checkpoint.digest import digest_paths
from sw_audit.corpus.text import read_corpus
from sw_audit.errors import InputError
from sw_audit.evidence.files import verify_texts, verify_weights
from sw_audit.policy.policy import CorpusPolicy, Policy
from sw_audit.record.record import Record
from sw_audit.record.subjects import list_subjects

FILES = {"model-1.safetensors": b"first" * 40, "model-2.safetensors": b"second" * 40}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "llama-w4"
    place.mkdir()
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    return place


def make_record(folder: Path, source: str = "elsewhere") -> Record:
    evidence = make_evidence("a", windows=4)
    files = digest_paths(folder.iterdir(), folder)
    model = evidence.model.model_copy(update={"source": source, "files": files, "digest": 64 * "a"})
    return compose(evidence.model_copy(update={"model": model}))


def test_the_same_files_verify_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    subjects = list_subjects(make_record(folder))
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert verify_weights(subjects, [str(moved)]) == (["a"], [])
    assert verify_weights(subjects, []) == ([], [])


def test_a_changed_a_shorter_and_a_missing_file_are_named(folder: Path) -> None:
    subjects = list_subjects(make_record(folder))
    (folder / "model-1.safetensors").write_bytes(b"First" + FILES["model-1.safetensors"][5:])
    (folder / "model-2.safetensors").write_bytes(b"second")
    same, [content, length] = verify_weights(subjects, [str(folder)])
    assert same == []
    assert content.where == "weights[a].model-1.safetensors"
    assert "its sha256 is" in content.found
    assert length.found == "it has 6 bytes, and the record says 240"
    (folder / "model-2.safetensors").unlink()
    assert "weights[a].model-2.safetensors: the file is not there" in map(
        str, verify_weights(subjects, [f"a={folder}"])[1]
    )


def test_no_bit_of_a_weight_file_changes_unseen(folder: Path) -> None:
    subjects = list_subjects(make_record(folder))
    drawn = random.Random(0)  # noqa: S311 - which bytes, and no secret
    for _ in range(1000):
        name = drawn.choice(list(FILES))
        content = bytearray(FILES[name])
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        (folder / name).write_bytes(content)
        _, [doubt] = verify_weights(subjects, [str(folder)])
        assert doubt.where == f"weights[a].{name}"
        (folder / name).write_bytes(FILES[name])


def test_the_base_of_an_adapter_is_a_subject_of_its_own(folder: Path) -> None:
    record = make_record(folder)
    [result] = record.results
    first, second = result.model.files
    files = (first, second.model_copy(update={"path": f"base/{second.path}"}))
    model = result.model.model_copy(update={"files": files})
    subjects = list_subjects(record.model_copy(update={"models": (result.model_copy(update={"model": model}),)}))
    assert [(one.name, [file.path for file in one.files]) for one in subjects] == [
        ("a", ["model-1.safetensors"]),
        ("a (base)", ["model-2.safetensors"]),
    ]


def test_a_folder_that_is_not_there_or_of_no_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    subjects = list_subjects(make_record(folder))
    with pytest.raises(InputError, match="there is no such file"):
        verify_weights(subjects, [str(tmp_path / "gone")])
    with pytest.raises(InputError, match="no model of the record, which knows none"):
        verify_weights([], [str(folder)])


def test_a_text_that_changed_is_named_and_one_that_is_gone_cannot_be_told(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some words.")
    evidence = make_evidence("a", windows=4)
    corpus = evidence.protocol.corpus.model_copy(update={"name": str(text), "sha256": "c3a9b0d1"})
    protocol = evidence.protocol.model_copy(update={"corpus": corpus})
    policy = Policy(corpus=CorpusPolicy(source=str(text)))
    record = compose(evidence.model_copy(update={"protocol": protocol}), policy=policy)
    _, [changed] = verify_texts(record)
    assert (changed.where, changed.open) == (f"text {text}", False)
    text.unlink()
    _, [gone] = verify_texts(record)
    assert gone.open


def test_the_text_that_ships_is_the_one_of_a_true_record() -> None:
    evidence = make_evidence("a", windows=4)
    identity = read_corpus(CorpusPolicy(source="english")).identity
    protocol = evidence.protocol.model_copy(update={"corpus": identity})
    record = compose(evidence.model_copy(update={"protocol": protocol}))
    assert verify_texts(record) == (["english"], [])
