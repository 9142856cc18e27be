"""The text that quality is measured on: the specimen's, a file's, or a data set's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # it ships no types

from sw_audit.corpus.dataset import read_data_set
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.record.identity import CorpusIdentity
from sw_audit.specimen.shipped import corpus_path

SPECIMEN = "specimen"
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
        natural_window: Length in tokens, BOS included, of the pieces it is made of; `None` if it is not.
    """

    identity: CorpusIdentity
    text: str
    natural_window: int | None


def read_corpus(corpus: CorpusPolicy) -> Text:
    """Read the text that a policy asks for.

    Local files are read as they are (`.txt`) or row by row from the policy's column (`.json`, `.jsonl`,
    `.parquet`); rows are joined by an empty line. Whatever is neither `specimen` nor a file is the name of a
    data set. A file is never looked up on the network.

    Raises:
        CorpusError: If it cannot be read or holds no text.
    """
    path = Path(corpus.source).expanduser()
    natural_window = None
    if corpus.source == SPECIMEN:
        text = corpus_path().read_text(encoding="utf-8")
        natural_window = _measure_stories(text)
        name = SPECIMEN
    elif path.exists() or looks_like_path(corpus.source):
        text = _read_file(path, corpus)
        name = corpus.source
    else:
        text = _join(read_data_set(corpus), f"data set {corpus.source!r}", corpus)
        name = f"{corpus.source} ({', '.join(part for part in (corpus.config, corpus.split) if part)})"
    if not text.strip():
        raise CorpusError(f"corpus {corpus.source!r}", "it holds no text", "give a text of some thousand words")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Text(CorpusIdentity(name=name, sha256=digest, characters=len(text)), text, natural_window)


def check_corpus(corpus: CorpusPolicy) -> None:
    """Complain about a corpus as far as that takes no network and no more than a look at its file.

    Raises:
        CorpusError: If its file is missing, empty or no readable file.
    """
    path = Path(corpus.source).expanduser()
    if corpus.source != SPECIMEN and (path.exists() or looks_like_path(corpus.source)):
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
