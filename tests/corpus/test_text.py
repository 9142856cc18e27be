from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from datasets import Dataset
from huggingface_hub.errors import RepositoryNotFoundError

from sw_audit.corpus.text import check_corpus, choose_corpus, read_corpus
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.specimen.shipped import specimen_vocabulary


def _refusal(source: Path | str, **options: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        read_corpus(CorpusPolicy(source=str(source), **options))
    assert repr(str(source)) in str(caught.value)
    return str(caught.value)


def test_the_specimens_text_comes_with_the_length_of_its_stories() -> None:
    text = read_corpus(CorpusPolicy(source="specimen"))
    lines = text.text.splitlines()
    assert text.identity.name == "specimen"
    assert text.identity.characters == len(text.text)
    assert {len(line.split()) for line in lines} == {len(lines[0].split())}
    assert text.natural_window == 1 + len(lines[0].split())


def test_a_text_file_is_read_as_it_is(tmp_path: Path) -> None:
    content = "The fox\n\n  sang über alles.\n"
    path = tmp_path / "fable.txt"
    path.write_text(content, encoding="utf-8")
    text = read_corpus(CorpusPolicy(source=str(path)))
    assert text.text == content
    assert text.natural_window is None
    assert text.identity.name == str(path)
    assert text.identity.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


ROWS = ["one fox", "", None, "two owls"]
JOINED = "one fox\n\n\n\ntwo owls"


def test_rows_are_joined_by_an_empty_line_whatever_the_format(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"story": row, "n": 1}) + "\n" for row in ROWS))
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([{"story": row} for row in ROWS], indent=1))
    columns = tmp_path / "columns.json"
    columns.write_text(json.dumps({"story": ROWS, "n": [1]}))
    parquet = tmp_path / "rows.parquet"
    Dataset.from_dict({"story": ROWS, "n": [1, 2, 3, 4]}).to_parquet(parquet)
    for path in (lines, array, columns, parquet):
        assert read_corpus(CorpusPolicy(source=str(path), field="story")).text == JOINED, path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_a_missing_column_names_those_there_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        Dataset.from_dict({"story": ["a"], "n": [1]}).to_parquet(path)
    else:
        path.write_text('{"story": "a", "n": 1}')
    assert "no column 'text', only 'n', 'story'" in _refusal(path)
    assert "column 'n' holds int, not text" in _refusal(path, field="n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "the file is empty"),
        ("blank.txt", b" \n\t\n", "it holds no text"),
        ("latin.txt", b"caf\xe9", "byte 3 is not UTF-8"),
        ("broken.json", b'{"text": ', "it is not JSON"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', "it is not JSON"),
        ("empty.jsonl", b'{"text": ""}\n', "it holds no text"),
        ("broken.parquet", b"PAR0", "it is not a Parquet file"),
        ("numbers.json", b"[1, 2]", "no column 'text', only none at all"),
    ],
)
def test_a_file_without_text_is_one_clear_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said in _refusal(path)


@pytest.mark.parametrize("source", ["nowhere.txt", "./nowhere", "/no/where", "some/where/else.parquet"])
def test_a_path_that_does_not_exist_is_never_looked_up_as_a_data_set(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sw_audit.corpus.text.read_data_set", lambda _: pytest.fail("it was looked up"))
    assert "there is no such file" in _refusal(source)
    with pytest.raises(CorpusError, match="there is no such file"):
        check_corpus(CorpusPolicy(source=source))


def test_a_folder_is_no_corpus(tmp_path: Path) -> None:
    assert "this is not a file" in _refusal(tmp_path)


def test_checking_a_corpus_says_only_what_a_look_can_tell(tmp_path: Path) -> None:
    check_corpus(CorpusPolicy(source="specimen"))
    check_corpus(CorpusPolicy(source="Salesforce/wikitext"))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CorpusError, match="the file is empty"):
        check_corpus(CorpusPolicy(source=str(tmp_path / "a.txt")))


def _in_new_process(source: str, environment: dict[str, str]) -> tuple[str, str, float]:
    probe = (
        "import sys\n"
        "from sw_audit.corpus.text import read_corpus\n"
        "from sw_audit.policy.policy import CorpusPolicy\n"
        "from sw_audit.errors import CorpusError\n"
        "try: read_corpus(CorpusPolicy(source=sys.argv[1], config='raw'))\n"
        "except CorpusError as error: print(error)"
    )
    begun = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", probe, source],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    return found.stdout, found.stderr, time.monotonic() - begun


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "the hub is switched off by HF_HUB_OFFLINE"),
        # Nothing listens on the discard port.
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
    ],
)
def test_a_data_set_is_one_clear_line_soon_when_there_is_no_hub(
    environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    stdout, stderr, seconds = _in_new_process("owner/stories", {**environment, "HF_HOME": str(tmp_path)})
    assert stdout.startswith("data set 'owner/stories': no file of that name here")
    assert said in stdout
    assert stdout.count("\n") == 1
    assert stderr == ""
    # Without the short question first, the library tries for more than 20 seconds.
    assert seconds < 15


def test_a_data_set_that_nobody_has_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
    assert "neither a file here nor a data set on the hub" in _refusal("owner/stories")


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that `datasets` loads by its name, as it loads a repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    folder = tmp_path / "owner" / "stories" / "raw"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        Dataset.from_dict({"text": [f"{split} {row}" for row in range(3)]}).to_parquet(folder / f"{split}.parquet")
    return "owner/stories"


def test_a_data_set_is_read_split_by_split(stories: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder is no corpus, so let it pass for a name.
    monkeypatch.setattr(Path, "exists", lambda _: False)
    text = read_corpus(CorpusPolicy(source=stories))
    assert text.text == "test 0\n\ntest 1\n\ntest 2"
    assert text.identity.name == "owner/stories (test)"
    assert "no split 'validation'" in _refusal(stories, split="validation")
    assert "no configuration 'raw'" in _refusal(stories, config="raw")
    assert "no column 'story', only 'text'" in _refusal(stories, field="story")


def test_the_texts_that_ship_leave_some_to_calibrate_on() -> None:
    english = read_corpus(CorpusPolicy(source="english"))
    assert (english.natural_window, english.natural_windows) == (256, 24)
    assert len(english.text.split()) > 2 * english.natural_window * english.natural_windows
    assert english.text.startswith("Loess, the Ground That Came by Air\n\n")


def test_a_model_with_the_specimens_words_is_measured_on_the_specimens_text() -> None:
    words = specimen_vocabulary()
    assert choose_corpus(CorpusPolicy(windows=3), words) == CorpusPolicy(source="specimen", windows=3)
    assert choose_corpus(CorpusPolicy(), {*words, "other"}).source == "english"
    assert choose_corpus(CorpusPolicy(), None).source == "english"
    assert choose_corpus(CorpusPolicy(source="mine.txt"), words).source == "mine.txt"
