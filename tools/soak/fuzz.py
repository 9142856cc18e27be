"""Spoil files that are read, and count what comes out: an answer, an error of the project's own, or a defect.

Hypothesis draws the changes: values of a sound document, which is written again, and bytes of what was written.
Each input has 10 s and 1 GB more than the process has at the start.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import tempfile
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors import SafetensorError, safe_open

from sw_audit.checkpoint.dtype import choose_dtype
from sw_audit.checkpoint.folder import CheckpointFolder, inspect_checkpoint
from sw_audit.checkpoint.headers import DamagedFileError, read_header
from sw_audit.checkpoint.lint_headers import lint_headers
from sw_audit.checkpoint.loading import load_tokenizer
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.start import find_start
from sw_audit.checkpoint.stored import size_checkpoint
from sw_audit.checks.judging import judge_result
from sw_audit.checks.registry import find_checks
from sw_audit.errors import AuditError
from sw_audit.files.configuration import read_configuration
from sw_audit.index.lineage import read_ancestors, read_names
from sw_audit.index.reading import read_index
from sw_audit.measure.retention import compare_with_baseline
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import read_policy
from sw_audit.record.record import ModelResult
from sw_audit.record.store import choose_baseline, open_baseline, read_record

ROOT = Path(__file__).parents[2]
SPECIMEN = ROOT / "sw_audit/specimen/data/specimen"
RECORD = ROOT / "tests/record/data/schema-2.json"
SECONDS = 10
BYTES = 1_000_000_000
_ODD: tuple[Any, ...] = (
    10**9, 10**30, 1e308, -1e308, 5e-324, "\x1b[31m", "\u202e", "\ud800", "..", [], {}, [[]],
)  # fmt: skip
_BYTES = (
    b"",
    b"[" * 3000,
    b"{" * 3000,
    b"9" * 5000,
    b"\xff",
    b"\0",
    b'"',
    b"a." * 50,
    b"\n",
    b"1e999",
    b"\xff" * 8,
)
_VALUES: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(_ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=4,
)
_GONE = "(gone)"
_KEPT = 300_000
Place = tuple[Any, ...]
"""Keys and positions that lead to a part of a document."""


class Row(NamedTuple):
    """How many inputs of a kind were read, refused in one line, and neither; with examples of these."""

    kind: str
    inputs: int
    read: int
    refused: int
    defects: int
    examples: tuple[str, ...]


class Edits(NamedTuple):
    """Changes to a document, each a place and a value, and then of bytes: where, how many, and what for them."""

    values: list[tuple[Place, Any]]
    pieces: list[tuple[int, int, bytes]]


class Kind(NamedTuple):
    """The name of a file, the sound document in it, how that is written, and what reads the file."""

    name: str
    load: Callable[[], Any]
    write: Callable[[Any], bytes]
    read: Callable[[Path], object]


def list_places(document: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where the parts of a document are; of a list its first, second and last member."""
    if isinstance(document, dict | list):
        keys = (
            document
            if isinstance(document, dict)
            else sorted({*range(len(document))[:2], *range(len(document))[-1:]})
        )
        for key in keys:
            yield (*place, key)
            yield from list_places(document[key], (*place, key))


def replace_at(document: Any, place: Place, value: Any) -> Any:
    """Return a document with another value at a place, or none there; as it was where there is no such place."""
    if not place:
        return value
    copy, (key, *rest) = document.copy() if isinstance(document, dict | list) else document, place
    with suppress(LookupError, TypeError):
        if value == _GONE and not rest:
            del copy[key]
        else:
            copy[key] = replace_at(copy[key], tuple(rest), value)
    return copy


def draw_edits(document: Any, written: bytes) -> SearchStrategy[Edits]:
    """Draw changes to a document, or to what was written, or both; its own values, too, go to other places."""
    places = list(list_places(document))
    others = st.sampled_from(places).map(lambda place: _find(document, place))
    values = st.tuples(st.sampled_from(places), _VALUES | others | st.just(_GONE))
    # Most of what files say of themselves stands at their beginning.
    offsets = st.integers(0, min(len(written), 200)) | st.integers(0, len(written))
    pieces = st.tuples(
        offsets, st.integers(0, 12) | st.just(len(written)), st.binary(max_size=12) | st.sampled_from(_BYTES)
    )
    few: tuple[SearchStrategy[Any], ...] = tuple(st.lists(one, min_size=1, max_size=3) for one in (values, pieces))
    none: SearchStrategy[Any] = st.just([])
    return st.one_of(*(st.builds(Edits, *pair) for pair in ((few[0], none), (few[0], none), (none, few[1]), few)))


def spoil(document: Any, write: Callable[[Any], bytes], edits: Edits) -> bytes:
    """Make the bytes of a spoiled file."""
    for place, value in edits.values:
        document = replace_at(document, place, value)
    data = write(document)
    for begin, width, new in edits.pieces:
        data = data[:begin] + new + data[begin + width :]
    return data


def _find(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def _write_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _write_toml(document: Any) -> bytes:
    def write(value: Any) -> str:
        if isinstance(value, dict):
            return f"{{{', '.join(f'{write(str(key))} = {write(one)}' for key, one in value.items())}}}"
        if isinstance(value, list):
            return f"[{', '.join(map(write, value))}]"
        if isinstance(value, bool | str):
            return json.dumps(value, ensure_ascii=False)
        return str(value)

    lines = (f"{write(key)} = {write(value)}" for key, value in document.items())
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _write_safetensors(document: Any) -> bytes:
    header = json.dumps(document["header"]).encode()
    length = document["length"]
    told = length if isinstance(length, int) and length else len(header)
    return (told % 2**64).to_bytes(8, "little") + header + bytes(document["data"])


def _write_gguf(document: Any) -> bytes:
    metadata, tensors = document["metadata"], document["tensors"]
    counts = struct.pack("<IIQQ", 0x46554747, document["version"], len(tensors), len(metadata))
    pairs = (_gguf_text(key) + struct.pack("<I", kind) + data for key, (kind, data) in _gguf_values(metadata))
    infos = (
        _gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        for name, (shape, kind, offset) in tensors.items()
    )
    header = b"".join((counts, *pairs, *infos))
    return header + bytes(-len(header) % 32 + document["data"])


def _gguf_text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _gguf_values(metadata: dict[str, Any]) -> Iterator[tuple[str, tuple[int, bytes]]]:
    for key, value in metadata.items():
        yield key, _gguf_value(value)


def _gguf_value(value: Any) -> tuple[int, bytes]:
    """Number of the type, and the bytes, as the specification of GGUF has them."""
    match value:
        case bool():
            return 7, bytes([value])
        case int() if 0 <= value < 2**32:
            return 4, struct.pack("<I", value)
        case int():
            return 11, struct.pack("<q", value)
        case float():
            return 12, struct.pack("<d", value)
        case str():
            return 8, _gguf_text(value)
        case list():
            members = [_gguf_value(member) for member in value]
            kind = members[0][0] if members else 4
            return 9, struct.pack("<IQ", kind, len(members)) + b"".join(data for _, data in members)
    return 13, _gguf_text(str(value))  # there is no such type


def _load_gguf() -> Any:
    """A model of one layer that opens, whose tokenizer knows eight tokens."""
    tokens = ["<s>", "a", "b", "c", "ab", "bc", "5", "7"]
    width, metadata = 32, {
        "general.architecture": "llama", "general.name": "One", "general.alignment": 32, "general.file_type": 0,
        "general.base_model.0.repo_url": "https://huggingface.co/org/name",
        "llama.context_length": 64, "llama.embedding_length": 32, "llama.block_count": 1,
        "llama.feed_forward_length": 32, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16, "llama.rope.freq_base": 1e4, "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 2.0, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": 8,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, *[1] * 7], "tokenizer.ggml.merges": ["a b", "b c"],
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages[0].content }}", "quantize.imatrix.entries_count": 2,
    }  # fmt: skip
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {
        "token_embd.weight": [width, len(tokens)],
        "output_norm.weight": [width],
        **{f"blk.0.{name}.weight": [width] for name in ("attn_norm", "ffn_norm")},
        **{f"blk.0.{name}.weight": [width, width] for name in matrices},
    }
    tensors, offset = {}, 0
    for name, shape in shapes.items():
        tensors[name] = [shape, 0, offset]
        offset += 4 * width * (shape[1] if len(shape) > 1 else 1)
    return {"version": 3, "metadata": metadata, "tensors": tensors, "data": offset}


def _load_safetensors() -> Any:
    """The first tensors of the specimen, zeros for their data."""
    with (SPECIMEN / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    kept = {name: entry for name, entry in header.items() if entry.get("data_offsets", (0, 0))[1] <= _KEPT}
    ends = (entry["data_offsets"][1] for entry in kept.values() if "data_offsets" in entry)
    return {"length": 0, "header": kept, "data": max(ends)}


def _load_policy() -> Any:
    policy = Policy(models=(ModelPolicy(source="org/model"),)).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    waiver = {"check": "perplexity-ratio", "model": "*", "until": "2027-03-31", "owner": "Ada", "reason": "known"}
    return {**policy, "waiver": [waiver]}


def _load_baseline() -> Any:
    document = json.loads(RECORD.read_bytes())
    return {**document, "models": document["models"][:1]}


def _read_safetensors(path: Path) -> None:
    """Read a header; whatever the library accepts is accepted, and what it refuses is refused."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except (SafetensorError, OSError):
        names = None
    try:
        read = set(read_header(path))
    except DamagedFileError:
        if names is not None:
            raise AssertionError("the library reads it, and it is refused") from None
        raise
    if read != names:
        raise AssertionError("the library refuses it or names other tensors, and it is read")


def _read_config(path: Path) -> None:
    policy = ModelPolicy(source=str(path.parent))
    inspect_checkpoint(policy)
    lint_headers(policy)
    read_configuration(CheckpointFolder.require(policy))
    size_checkpoint(policy)


def _read_tokenizer(path: Path) -> None:
    load_tokenizer(CheckpointFolder.require(ModelPolicy(source=str(path.parent))))


def _read_gguf(path: Path) -> None:
    """Do what an audit does before it opens a file, which it does not where its tensors do not read."""
    policy = ModelPolicy(source=str(path))
    folder = CheckpointFolder.require(policy)
    read_ancestors(path)
    read_names(path)
    report = lint_headers(policy)
    read_configuration(folder)
    size_checkpoint(policy)
    if not report.serious:
        choose_dtype(folder)
        with folder.format.reading():
            find_start(load_tokenizer(folder), folder)


@cache
def _open_specimen() -> tuple[Checkpoint, ModelResult]:
    models = read_record(RECORD).models
    (result,) = (one for one in models if isinstance(one, ModelResult) and one.id == "specimen")
    return open_checkpoint(ModelPolicy(source=str(SPECIMEN))), result


def _read_baseline(path: Path) -> None:
    """Hold the specimen against it, as an audit does."""
    checkpoint, result = _open_specimen()
    baseline = compare_with_baseline(
        checkpoint,
        result.location,
        choose_baseline(open_baseline(str(path), unverified=True), str(path), ["specimen"]),
    )
    checks = [name for name, check in find_checks().items() if check.scope == "baseline"]
    judge_result(result.model_copy(update={"baseline": baseline}), Policy(compare=str(path)), checks)


def _load_json(name: str) -> Callable[[], Any]:
    return lambda: json.loads((SPECIMEN / name).read_bytes())


KINDS: dict[str, Kind] = {
    "policy": Kind("policy.toml", _load_policy, _write_toml, read_policy),
    "index": Kind(
        "published.toml",
        lambda: tomllib.loads((ROOT / "sw_audit/index/published.toml").read_text(encoding="utf-8")),
        _write_toml,
        read_index,
    ),
    "record": Kind("record.json", lambda: json.loads(RECORD.read_bytes()), _write_json, read_record),
    "baseline": Kind("baseline.json", _load_baseline, _write_json, _read_baseline),
    "config": Kind("config.json", _load_json("config.json"), _write_json, _read_config),
    "tokenizer settings": Kind(
        "tokenizer_config.json", _load_json("tokenizer_config.json"), _write_json, _read_tokenizer
    ),
    "tokenizer": Kind("tokenizer.json", _load_json("tokenizer.json"), _write_json, _read_tokenizer),
    "safetensors": Kind("model.safetensors", _load_safetensors, _write_safetensors, _read_safetensors),
    "GGUF": Kind("model.gguf", _load_gguf, _write_gguf, _read_gguf),
}


def fuzz(count: int, first: int = 0, kinds: Iterable[str] = KINDS) -> list[Row]:
    """Spoil and read `count` files, as many of each kind, in a process for each kind."""
    chosen = tuple(kinds)
    jobs = [(kind, -(-count // len(chosen)), first) for kind in chosen]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(_fuzz_kind, jobs, chunksize=1)


def _fuzz_kind(job: tuple[str, int, int]) -> Row:
    kind, count, first = job
    with tempfile.TemporaryDirectory() as folder:
        return fuzz_kind(kind, count, first, Path(folder), bound=True)


def fuzz_kind(kind: str, count: int, first: int, folder: Path, *, bound: bool = False) -> Row:
    """Spoil and read files of one kind, in this process, `bound` to 1 GB more than it has; `first` is a seed."""
    counts, examples = Counter[str](), dict[str, str]()

    def note(edits: Edits, outcome: str, error: BaseException | None) -> None:
        counts[outcome] += 1
        if outcome == "defect" and error is not None:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
            shown = f"{said}, {error!s:.120}: {edits!r:.400}"
            examples[said] = min(examples.get(said, shown), shown, key=len)

    read_spoiled = make_test(kind, folder, note)
    if bound:
        _bound()
    options = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=tuple(HealthCheck),
    )
    seed(first)(options(read_spoiled))()
    return Row(kind, counts.total(), counts["read"], counts["refused"], counts["defect"], tuple(examples.values()))


def make_test(
    kind: str, folder: Path, note: Callable[[Edits, str, BaseException | None], None]
) -> Callable[[], None]:
    """Make the function that hypothesis gives spoiled files to; `note` is told what became of each."""
    shutil.copytree(SPECIMEN, folder, dirs_exist_ok=True)
    name, load, write, read = KINDS[kind]
    document, path, counts = load(), folder / name, Counter[str]()
    path.write_bytes(write(document))
    read(path)  # as it is it must be read

    @given(draw_edits(document, path.read_bytes()))
    def read_spoiled(edits: Edits) -> None:
        try:
            data = spoil(document, write, edits)
        except (ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError):
            reject()  # the format has no way to say it
        path.write_bytes(data)
        counts["written"] += 1
        os.utime(path, (counts["written"],) * 2)  # what is read once is known by size and time
        outcome: str = "read"
        problem: BaseException | None = None
        signal.alarm(SECONDS)
        try:
            read(path)
        except (AuditError, DamagedFileError) as error:
            outcome, problem = "refused" if "\n" not in str(error) else "defect", error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            outcome, problem = "defect", error
        finally:
            signal.alarm(0)
        note(edits, outcome, problem)

    return read_spoiled


def _bound() -> None:
    def end(*_: object) -> None:
        raise TimeoutError("it took more than 10 s")

    signal.signal(signal.SIGALRM, end)
    held = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, held + BYTES))


def list_rows(rows: list[Row]) -> Iterator[str]:
    """Yield the table of what became of the inputs."""
    yield "| input | files | read | refused in one line | anything else |"
    yield "|---|---|---|---|---|"
    yield from (
        f"| {row.kind} | {row.inputs:,} | {row.read:,} | {row.refused:,} | {row.defects:,} |" for row in rows
    )
