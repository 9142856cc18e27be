"""A record as JSON text, as a file, and as a baseline kept under a name; and the JSON Schema of both ends."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from errno import EISDIR
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from sw_audit.errors import OutputError, RecordError
from sw_audit.fact import write_location
from sw_audit.leftovers import clear, list_abandoned, name_temporary
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.printable import printable_json
from sw_audit.record.baseline import Baseline
from sw_audit.record.digest import RecordDigest, compare_digests, digest_document
from sw_audit.record.page_digest import is_page_whole
from sw_audit.record.record import Record
from sw_audit.record.upgrades import upgrade_document

_REMEDY = "give a record as sw-audit wrote it (record.json, or the HTML report)"


def encode_record(record: Record) -> str:
    """Write a record as JSON, two spaces a level; a list of plain values stays on one line.

    `decode_record(encode_record(record)) == record`: numbers are written so that they are read back to the
    last bit, and none is ever NaN or infinite. The key `digest` says what the rest comes to.
    """
    return encode_document(make_document(record))


def encode_document(document: dict[str, Any]) -> str:
    """Write a record's JSON document as it is kept, its digest included."""
    return "".join(_write(document, "\n")) + "\n"


def make_document(record: Record) -> dict[str, Any]:
    """Return a record as the JSON document that is written, its digest included."""
    document = record.model_dump(mode="json", by_alias=True)
    return {**document, "digest": digest_document(document).model_dump()}


@dataclass(frozen=True)
class Doubt:
    """Why a record may not be what was written.

    Attributes:
        where: The part, such as `models[llama-w4].verdicts[perplexity-ratio]`.
        found: What was found there, as a clause.
        open: Whether it merely cannot be told; else it was changed.
    """

    where: str
    found: str
    open: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.found}"


@dataclass(frozen=True)
class StoredRecord:
    """A record as it was read, with what tells whether it is what was written.

    Attributes:
        record: The record, in the current form.
        digest: The digest that it carries; `None` if it has none, as those of before schema 4.
        changed: The parts in which it is not what its digest was made of.
        document: Its JSON as it was found, read. A key that a later version has added is not in it, so that digest
            and signature stay what they were.
        text: The same, as text.
        former: Whether it was written in a form of before records carried a digest.
        page: The whole page that carried it; `None` if it was a file of its own.
    """

    record: Record
    digest: RecordDigest | None
    changed: tuple[str, ...]
    document: dict[str, Any]
    text: str
    former: bool = False
    page: str | None = None

    @property
    def canonical(self) -> bool:
        """Whether its JSON is, character for character, what is written for such a document."""
        return self.text == (encode_document if self.page is None else _embed)(self.document)

    def list_doubts(self) -> list[Doubt]:
        """Name what tells that this is not what was written, as far as digests and form can tell."""
        doubts = [Doubt(place, "it is not what the record's digest was made of") for place in self.changed]
        if self.digest is None:
            doubts.append(Doubt("digest", "it carries none, so nothing tells whether it was changed", self.former))
        elif not doubts and not self.canonical:
            doubts.append(Doubt("record", "its JSON says the same and is written otherwise"))
        if self.page is not None and (whole := is_page_whole(self.page)) is not True:
            found = "it carries no digest" if whole is None else "it is not what its digest was made of"
            doubts.append(Doubt("page", found, self.former))
        return doubts


def decode_record(text: str, origin: str = "record") -> Record:
    """Read a record; whether it is what was written is not looked at.

    `origin` says in error messages where it comes from.

    Raises:
        RecordError: If it is not JSON, of an unknown schema, or says something that a record cannot say.
    """
    return decode_stored(text, origin).record


def decode_stored(text: str, origin: str = "record") -> StoredRecord:
    """Read a record with its digest; see `decode_record`."""
    parsed = _parse(text, origin)
    document = dict(upgrade_document(parsed, origin))
    carried = document.pop("digest", None)
    record = _validate(document, origin)
    try:
        digest = None if carried is None else RecordDigest.model_validate(carried)
    except ValidationError as error:
        raise RecordError(f"record {origin}, key digest", "it is no digest of a record", _REMEDY) from error
    with one_line_nonsense(f"record {origin}"):
        changed = () if digest is None else compare_digests(digest, digest_document(parsed))
    return StoredRecord(record, digest, changed, parsed, text, former=parsed["schema"] != document["schema"])


def embed_record(record: Record) -> str:
    """Write a record as JSON that cannot end the element of a page that it stands in."""
    return _embed(make_document(record))


def _embed(document: dict[str, Any]) -> str:
    text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return printable_json(text).replace("<", r"\u003c")


def _validate(document: dict[str, Any], origin: str) -> Record:
    try:
        # Through JSON again, for in strict mode pydantic reads tuples and enums only from JSON.
        return Record.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = write_location(first["loc"]) or "record"
        problem = "this key is unknown" if first["type"] == "extra_forbidden" else first["msg"]
        raise RecordError(f"record {origin}, key {key}", problem, _REMEDY) from error


@contextmanager
def one_line_nonsense(asked: str) -> Iterator[None]:
    """Turn what facts that contradict each other raise into a RecordError of one line.

    What a run measured fits together; what somebody wrote or changed by hand need not.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        problem = f"what it holds does not fit together ({type(error).__name__}: {error})"
        raise RecordError(asked, problem, "give a record as sw-audit wrote it") from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    def refuse_number(literal: str) -> NoReturn:
        raise RecordError(f"record {origin}", f"it holds {literal}, which is not a number in JSON", _REMEDY)

    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise RecordError(f"record {origin}", "a key stands twice in one object", _REMEDY)
        return table

    try:
        document = json.loads(text, parse_constant=refuse_number, object_pairs_hook=refuse_doubles)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {origin}", f"it is not JSON ({error})", _REMEDY) from error
    if not isinstance(document, dict):
        raise RecordError(f"record {origin}", f"it is a JSON {type(document).__name__}", _REMEDY)
    return document


def _write(value: Any, newline: str) -> Iterator[str]:
    nested = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(part, dict | list) for part in value)
    )
    if not value or not nested:
        yield json.dumps(value, allow_nan=False, ensure_ascii=False)
        return
    deeper = f"{newline}  "
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    parts = value.items() if isinstance(value, dict) else ((None, part) for part in value)
    for number, (key, part) in enumerate(parts):
        name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
        yield f"{',' if number else opening}{deeper}{name}"
        yield from _write(part, deeper)
    yield f"{newline}{closing}"


_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas (draft 2020-12) under `policy` and `record`.

    A policy may leave out whatever has a default. A record as it is written leaves nothing out.
    """
    record = Record.model_json_schema(mode="serialization")
    record["properties"]["digest"] = RecordDigest.model_json_schema(mode="serialization")
    record["required"].append("digest")
    return {
        "policy": {"$schema": _DIALECT, **Policy.model_json_schema(mode="validation")},
        "record": {"$schema": _DIALECT, **record},
    }


EMBEDDED_ID = "sw-audit-record"


def write_text(path: Path, text: str) -> None:
    """Write a text so that the file is either the old one or the whole new one; see `write_texts`.

    Raises:
        OutputError: If it cannot be written.
    """
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write texts that belong together: none takes the name of its file before all are safely on disk.

    So each file is at every moment the old one or the whole new one, and where one cannot be written all are the
    old ones. Each text goes to a temporary file beside its own, in a folder that must exist; what killed processes
    have left there is taken away. Devices and pipes are written to directly, at the end. UTF-8, with line ends as
    they are.

    Raises:
        OutputError: If one cannot be written.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            if not _is_device(path):
                with _telling(path):
                    drafts[path] = path.resolve().with_name(name_temporary())
                    clear(list_abandoned(drafts[path].parent.iterdir()))
                    _write_draft(drafts[path], path, text)
        for path, draft in drafts.items():
            with _telling(path):
                draft.replace(path.resolve())
        for path in texts.keys() - drafts.keys():
            with _telling(path):
                path.write_text(texts[path], encoding="utf-8", newline="")
    finally:
        clear(drafts.values())


def _write_draft(draft: Path, path: Path, text: str) -> None:
    # Not tempfile: its files are private to the user, and a report is for others, as the umask has it.
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
    with draft.open("x", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"output {path}", _reason(error), "choose a place that can be written to") from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to write into, which takes its name once everything in it is written.

    What was there under that name before is let go only then; after an exception it is still there.

    Raises:
        OutputError: If it cannot be written.
    """
    target = folder.resolve()
    draft = target.with_name(name_temporary())
    former = target.with_name(f".{target.name}.{secrets.token_hex(8)}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear(list_abandoned(target.parent.iterdir()))
        draft.mkdir()
        yield draft
        if target.exists():
            target.rename(former)
        draft.rename(target)
    except OSError as error:
        reason = str(error.args[0][0][-1]) if isinstance(error, shutil.Error) else _reason(error)
        raise OutputError(f"output folder {folder}", reason, "choose a place that can be written to") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if former.exists() and not target.exists():
            former.rename(target)
        shutil.rmtree(former, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Make sure that files can be written into a folder; create it if needed.

    Raises:
        OutputError: If it cannot be created or written to.
    """
    probe = folder / name_temporary()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        remedy = "choose a folder that can be written to"
        raise OutputError(f"output folder {folder}", _reason(error), remedy) from error


def read_record(path: Path) -> Record:
    """Read a record from a JSON file, or from an HTML report that carries it; see `open_stored`."""
    return open_stored(path).record


def open_stored(path: Path) -> StoredRecord:
    """Read a record with its digest from a JSON file, or from an HTML report that carries it.

    Raises:
        RecordError: If there is no such file, it carries no record, or the record cannot be used.
    """
    asked = f"record {path}"
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(asked, "it is not text in UTF-8", "give record.json or report.html") from error
    except OSError as error:
        raise RecordError(asked, _reason(error), "give record.json or report.html") from error
    if path.suffix.lower() not in (".html", ".htm"):
        return decode_stored(text, str(path))
    finder = _RecordFinder()
    finder.feed(text)
    finder.close()
    if finder.text is None:
        raise RecordError(asked, "this page carries no record", "give the record.json that it was made from")
    return replace(decode_stored(finder.text, str(path)), page=text)


class _RecordFinder(HTMLParser):
    """Collects the text of the script element that carries the record."""

    def __init__(self) -> None:
        super().__init__()
        self.text: str | None = None
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", EMBEDDED_ID) in attrs
        if self._inside:
            self.text = ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text = (self.text or "") + data


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


FOLDER = Path(".sw-audit", "baselines")
"""Where baselines lie, in the working folder or in the nearest one above that has it."""

_NAME = re.compile(r"\w[\w.+-]*")
_FILES = (".json", ".html", ".htm")


def is_name(word: str) -> bool:
    """Whether a word names a baseline; anything else is the path of a record."""
    return _NAME.fullmatch(word) is not None and not word.lower().endswith(_FILES)


def find_shelf(start: Path | None = None) -> Path:
    """Return the folder of baselines that holds for a folder, by default the working folder; it need not exist."""
    here = (start or Path.cwd()).resolve()
    folders = (place / FOLDER for place in (here, *here.parents) if (place / FOLDER).is_dir())
    return next(folders, here / FOLDER)


def list_baselines() -> tuple[str, ...]:
    """Return the names of the baselines that are kept here."""
    shelf = find_shelf()
    return tuple(sorted(path.stem for path in shelf.glob("*.json"))) if shelf.is_dir() else ()


def check_name(name: str) -> None:
    """Complain about a name that no baseline can have, or a place that none can be kept in.

    Raises:
        OutputError: If there is something to complain about.
    """
    if not is_name(name):
        remedy = "use letters, digits, '-', '_', '+' and '.', and no ending such as .json"
        raise OutputError(f"baseline {name!r}", "this is no name", remedy)
    shelf = find_shelf()
    existing = next(place for place in (shelf, *shelf.parents) if place.exists())
    check_writable(existing)


def keep_baseline(name: str, record: Record) -> Path:
    """Keep a record under a name; one of that name that was there before is replaced as a whole.

    Raises:
        OutputError: If the name or the place cannot be used, or the record holds no model that was measured.
    """
    path = place_baseline(name, record)
    write_text(path, encode_record(record))
    return path


def place_baseline(name: str, record: Record) -> Path:
    """Return where a record is kept under a name, in a folder that can be written to.

    Raises:
        OutputError: If the name or the place cannot be used, or the record holds no model that was measured.
    """
    check_name(name)
    if not any(result.unedited for result in record.results):
        remedy = "look at why the model could not be audited, then save again"
        raise OutputError(f"baseline {name!r}", "no model was measured, so there is nothing to keep", remedy)
    path = find_shelf() / f"{name}.json"
    check_writable(path.parent)
    return path


def find_baseline_file(named: str) -> Path:
    """Return where the record of a baseline lies, named as for `open_baseline`; it need not be there."""
    path = Path(named).expanduser()
    if is_name(named) and ((kept := find_shelf() / f"{named}.json").is_file() or not path.is_dir()):
        return kept
    return path / "record.json" if (path / "record.json").is_file() else path


def open_baseline(named: str, *, unverified: bool = False) -> Record:
    """Read the record of a baseline.

    It is named by its name, by the path of a record, or of a folder with a `record.json`.

    Raises:
        RecordError: If there is none, it cannot be used, or, unless `unverified`, it is not what was written.
    """
    stored = open_stored_baseline(named)
    if not unverified:
        refuse_doubts(named, stored.list_doubts())
    return stored.record


def refuse_doubts(named: str, doubts: Sequence[Doubt]) -> None:
    """Refuse a record that may not be what was written.

    Raises:
        RecordError: If there is any doubt.
    """
    if doubts:
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        remedy = "see `sw-audit verify`; give --unverified to take it as it is"
        raise RecordError(f"record {named}", f"it does not verify: {doubts[0]}{more}", remedy)


def open_stored_baseline(named: str) -> StoredRecord:
    """Read the record of a baseline with its digest; see `open_baseline`."""
    path = find_baseline_file(named)
    if path.is_file() or not is_name(named):
        return open_stored(path)
    known = list_baselines()
    near = get_close_matches(named, known, n=1, cutoff=0.4)
    remedy = f"did you mean {near[0]!r}?" if near else "keep one with `sw-audit audit MODEL --save NAME`"
    raise RecordError(f"baseline {named!r}", f"there is none in {find_shelf()}", remedy)


def find_baseline(policy: Policy, model: ModelPolicy) -> Baseline | None:
    """Return what a model of a policy is held against; `None` where the policy compares with nothing.

    Of a record with several models it is the one of the same id, else the one of the model's parent.

    Raises:
        RecordError: If there is no such baseline, or it does not say which of its models is meant.
    """
    if policy.compare is None:
        return None
    record = open_baseline(policy.compare, unverified=policy.unverified)
    parent = policy.find_parent(model)
    return choose_baseline(record, policy.compare, [model.id, *([parent.id] if parent else [])])


def choose_baseline(record: Record, named: str, preferred: list[str]) -> Baseline:
    """Make a baseline of one of a record's models: the first of the preferred ids, else the only one.

    Raises:
        RecordError: If the record holds none of them, and not just one model, or that was not measured.
    """
    asked = f"baseline {named!r}"
    ids = [result.id for result in record.results]
    chosen = next((model_id for model_id in preferred if model_id in ids), ids[0] if len(ids) == 1 else None)
    if not ids:
        raise RecordError(asked, "it holds no model", "keep a record of a run that measured one")
    if chosen is None:
        holds = f"it holds {', '.join(ids)}, and no {preferred[0]}"
        raise RecordError(asked, holds, "give the model one of these ids (ID=SOURCE)")
    result = record.find_model(chosen)
    if result.unedited is None:
        raise RecordError(asked, f"{chosen} was not measured in it", "keep a record of a run that measured it")
    part = record.find_part(chosen)
    return Baseline(
        name=named,
        created=part.created,
        tool=part.tool,
        model=result.model,
        protocol=result.protocol,
        location=result.location,
        measurement=result.unedited,
        critical=result.critical,
        earlier=() if result.baseline is None else result.baseline.remember(),
    )
