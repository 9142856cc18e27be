"""The text that quality is measured on: one that ships with sw-audit, a file's, or a data set's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # it ships no types

from sw_audit.corpus.dataset import read_data_set
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.record.identity import CorpusIdentity
from sw_audit.specimen.shipped import corpus_path, specimen_vocabulary

AUTO, SPECIMEN, ENGLISH = "auto", "specimen", "english"
LANGUAGES = (ENGLISH, "german", "french", "spanish", "chinese")
"""The texts in natural languages that ship with sw-audit."""
BUILT_IN = (AUTO, SPECIMEN, *LANGUAGES)
_DATA = Path(__file__).parent / "data"
# Short enough that some thousand tokens make two dozen windows, long enough to hold more than a paragraph.
_NATURAL_WINDOW, _NATURAL_WINDOWS = 256, 24
MANY_WINDOWS = 128
"""How many windows are scored by default of a text that does not ship with sw-audit, and of the specimen's."""
# How perplexity on wikitext is measured everywhere, so that figures can be compared.
_BETWEEN_ROWS = "\n\n"
_PLAIN_SUFFIXES = ("", ".txt", ".text", ".md", ".raw", ".tokens")
_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Text:
    """A text and which one it is.

    Attributes:
        identity: Name, digest, length.
        text: The text.
        natural_window: Length in tokens, BOS included, of the windows it is cut into by default; `None` if that is
            for the model to say.
        natural_windows: How many windows are scored by default.
    """

    identity: CorpusIdentity
    text: str
    natural_window: int | None
    natural_windows: int = MANY_WINDOWS


def read_corpus(corpus: CorpusPolicy) -> Text:
    """Read the text that a policy asks for.

    Local files are read as they are (`.txt`) or row by row from the policy's column (`.json`, `.jsonl`,
    `.parquet`); rows are joined by an empty line. Whatever is neither one of `BUILT_IN` nor a file is the name of
    a data set. A file is never looked up on the network. `auto` is English here; see `choose_corpus`.

    Raises:
        CorpusError: If it cannot be read or holds no text.
    """
    path = Path(corpus.source).expanduser()
    natural_window, natural_windows = None, MANY_WINDOWS
    if corpus.source == SPECIMEN:
        text = corpus_path().read_text(encoding="utf-8")
        natural_window = _measure_stories(text)
        name = SPECIMEN
    elif corpus.source in BUILT_IN:
        name = ENGLISH if corpus.source == AUTO else corpus.source
        text = _read_language(name)
        natural_window, natural_windows = _NATURAL_WINDOW, _NATURAL_WINDOWS
    elif path.exists() or looks_like_path(corpus.source):
        text = _read_file(path, corpus)
        name = corpus.source
    else:
        text = _join(read_data_set(corpus), f"data set {corpus.source!r}", corpus)
        name = f"{corpus.source} ({', '.join(part for part in (corpus.config, corpus.split) if part)})"
    if not text.strip():
        raise CorpusError(f"corpus {corpus.source!r}", "it holds no text", "give a text of some thousand words")
    digest = hashlib.sha256(text.encode()).hexdigest()
    identity = CorpusIdentity(name=name, sha256=digest, characters=len(text))
    return Text(identity, text, natural_window, natural_windows)


def choose_corpus(corpus: CorpusPolicy, vocabulary: Collection[str] | None) -> CorpusPolicy:
    """Return a corpus whose source is no longer `auto`: the specimen's text for a model that has its words.

    Args:
        corpus: What is asked for.
        vocabulary: Every token of the model's tokenizer, as it is spelled; `None` if that is not known.
    """
    if corpus.source != AUTO:
        return corpus
    ours = vocabulary is not None and set(vocabulary) == specimen_vocabulary()
    return corpus.model_copy(update={"source": SPECIMEN if ours else ENGLISH})


def check_corpus(corpus: CorpusPolicy) -> None:
    """Complain about a corpus as far as that takes no network and no more than a look at its file.

    Raises:
        CorpusError: If its file is missing, empty or no readable file.
    """
    path = Path(corpus.source).expanduser()
    if corpus.source not in BUILT_IN and (path.exists() or looks_like_path(corpus.source)):
        _find_file(path, corpus.source)


def looks_like_path(source: str) -> bool:
    """Tell whether a source that is no file was meant as one, rather than as the name of a data set."""
    path = Path(source)
    return (
        path.is_absolute()
        or source.startswith((".", "~"))
        or "\\" in source
        or len(path.parts) > 2
        or path.suffix in (*_PLAIN_SUFFIXES[1:], *_JSON_SUFFIXES, ".parquet")
    )


def _read_language(name: str) -> str:
    if name != ENGLISH:
        return (_DATA / f"{name}.txt").read_text(encoding="utf-8")
    pieces = sorted((_DATA / ENGLISH).glob("*.txt"))
    return _BETWEEN_ROWS.join(piece.read_text(encoding="utf-8").strip() for piece in pieces)


def _read_file(path: Path, corpus: CorpusPolicy) -> str:
    asked = f"corpus {corpus.source!r}"
    _find_file(path, corpus.source)
    suffix = path.suffix.lower()
    try:
        if suffix in _JSON_SUFFIXES:
            return _join(_read_json(path.read_text(encoding="utf-8"), corpus), asked, corpus)
        if suffix == ".parquet":
            return _join(_read_parquet(path, corpus), asked, corpus)
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
        raise CorpusError(asked, problem, "give a text in UTF-8, a JSON or a Parquet file") from error
    except json.JSONDecodeError as error:
        raise CorpusError(asked, f"it is not JSON ({error})", "write one JSON object per line") from error
    except OSError as error:
        raise CorpusError(asked, f"it cannot be read ({error.strerror})", "check its permissions") from error


def _find_file(path: Path, source: str) -> None:
    asked = f"corpus {source!r}"
    if not path.exists():
        raise CorpusError(asked, "there is no such file", "correct the path, or name a data set")
    if not path.is_file():
        raise CorpusError(asked, "this is not a file", "give a text, JSON or Parquet file")
    if path.stat().st_size == 0:
        raise CorpusError(asked, "the file is empty", "give a text of some thousand words")


def _read_json(content: str, corpus: CorpusPolicy) -> list[Any]:
    """Read a column of JSON lines, of a list of objects, or of one object of lists."""
    try:
        rows: Any = json.loads(content)
    except json.JSONDecodeError:
        rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    if isinstance(rows, dict) and isinstance(rows.get(corpus.field), list):
        return list(rows[corpus.field])
    rows = rows if isinstance(rows, list) else [rows]
    columns = {name for row in rows if isinstance(row, dict) for name in row}
    if corpus.field not in columns:
        raise _refuse_column(f"corpus {corpus.source!r}", corpus.field, columns)
    return [row.get(corpus.field) for row in rows if isinstance(row, dict)]


def _read_parquet(path: Path, corpus: CorpusPolicy) -> list[Any]:
    asked = f"corpus {corpus.source!r}"
    try:
        columns = parquet.read_schema(path).names
        if corpus.field not in columns:
            raise _refuse_column(asked, corpus.field, columns)
        rows: list[Any] = parquet.read_table(path, columns=[corpus.field]).column(0).to_pylist()
    except ArrowException as error:
        raise CorpusError(asked, "it is not a Parquet file", "give a text, JSON or Parquet file") from error
    return rows


def _join(rows: Sequence[Any], asked: str, corpus: CorpusPolicy) -> str:
    """Join the rows of a column; rows without a value are left out."""
    odd = next((row for row in rows if row is not None and not isinstance(row, str)), None)
    if odd is not None:
        problem = f"column {corpus.field!r} holds {type(odd).__name__}, not text"
        raise CorpusError(asked, problem, "name a column of text in corpus.field")
    return _BETWEEN_ROWS.join(row for row in rows if row is not None)


def _refuse_column(asked: str, column: str, columns: Iterable[str]) -> CorpusError:
    problem = f"no column {column!r}, only {', '.join(repr(name) for name in sorted(columns)) or 'none at all'}"
    return CorpusError(asked, problem, "name a column of text in corpus.field")


def _measure_stories(text: str) -> int | None:
    """Return the common length of all stories, a line each and a token a word, with a BOS in front."""
    lengths = {len(line.split()) for line in text.splitlines() if line.strip()}
    return 1 + lengths.pop() if len(lengths) == 1 else None
