"""Spoil files that are read, and count what comes out: an answer, an error of the project's own, or a defect.

Structure is kept where it leads further: values of real files are replaced, and bytes of them are turned over.
Each input has 10 s and 1 GB more than the process has at the start.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from sw_audit.checkpoint.folder import CheckpointFolder, inspect_checkpoint
from sw_audit.checkpoint.headers import DamagedFileError, read_header
from sw_audit.checkpoint.loading import load_tokenizer
from sw_audit.errors import AuditError
from sw_audit.index.reading import read_index
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.reading import read_policy
from sw_audit.record.store import read_record

ROOT = Path(__file__).parents[2]
SPECIMEN = ROOT / "sw_audit/specimen/data/specimen"
SECONDS = 10
BYTES = 1_000_000_000
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**9, 10**30, 1e308, -1e308, 5e-324, "", "x", "\x1b[31m", "\u202e", "..", [], {}, [[]],
)  # fmt: skip
_BYTES = (b"[" * 3000, b"{" * 3000, b"9" * 5000, b"\xff", b"\0", b'"', b"a." * 50, b"\n", b"-", b"1e999")


class Row(NamedTuple):
    """How many inputs of a kind were read, refused in one line, and neither; with examples of these."""

    kind: str
    inputs: int
    read: int
    refused: int
    defects: int
    examples: tuple[str, ...]


def spoil_bytes(data: bytes, draw: random.Random) -> bytes:
    """Cut, repeat, replace or insert a few bytes."""
    for _ in range(draw.randint(1, 4)):
        place, width = draw.randrange(len(data) + 1), draw.randint(0, 12)
        new = draw.choice((b"", draw.randbytes(width), draw.choice(_BYTES), data[:width]))
        data = data[:place] + new + data[place + width :]
    return data if draw.random() > 0.05 else data[: draw.randrange(len(data) + 1)]


def spoil_json(data: bytes, draw: random.Random) -> bytes:
    """Replace, delete or add values of a JSON document."""
    document = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        here = document
        while isinstance(here, dict | list) and here:
            key: Any = draw.choice(list(here)) if isinstance(here, dict) else draw.randrange(len(here))
            if not isinstance(here[key], dict | list) or not here[key] or draw.random() < 0.15:
                if isinstance(here, dict) and draw.random() < 0.2:
                    del here[key]
                else:
                    here[key] = deepcopy(draw.choice(ODD))
                break
            here = here[key]
    return json.dumps(document).encode()


def _spoil_header(data: bytes, draw: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    spoil = spoil_json if draw.random() < 0.7 else spoil_bytes
    header = spoil(data[8 : 8 + length], draw)
    told = len(header) if draw.random() < 0.8 else draw.choice((0, 7, length, 2**31, 2**63, 2**64 - 1))
    return told.to_bytes(8, "little") + header + data[8 + length :]


def _either(data: bytes, draw: random.Random) -> bytes:
    return (spoil_json if draw.random() < 0.7 else spoil_bytes)(data, draw)


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


def _inspect(path: Path) -> None:
    inspect_checkpoint(ModelPolicy(source=str(path.parent)))


def _load_tokenizer(path: Path) -> None:
    load_tokenizer(CheckpointFolder.require(ModelPolicy(source=str(path.parent))))


KINDS: dict[str, tuple[str, Callable[[bytes, random.Random], bytes], Callable[[Path], object]]] = {
    "policy": ("policy.toml", spoil_bytes, read_policy),
    "index": ("published.toml", spoil_bytes, read_index),
    "record": ("schema-2.json", _either, read_record),
    "config": ("config.json", _either, _inspect),
    "tokenizer": ("tokenizer_config.json", _either, _load_tokenizer),
    "safetensors": ("model.safetensors", _spoil_header, _read_safetensors),
}
"""By kind the file, how it is spoiled and what reads it."""


def fuzz(count: int, seed: int = 0, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Row]:
    """Spoil and read `count` files, as many of each kind, in a process for each kind."""
    jobs = [(kind, -(-count // len(kinds)), seed) for kind in kinds]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(_fuzz_kind, jobs, chunksize=1)


def _fuzz_kind(job: tuple[str, int, int]) -> Row:
    kind, count, seed = job
    _bound()
    with tempfile.TemporaryDirectory() as folder:
        return fuzz_kind(kind, count, seed, Path(folder))


def fuzz_kind(kind: str, count: int, seed: int, folder: Path) -> Row:
    """Spoil and read files of one kind, in this process."""
    name, spoil, read = KINDS[kind]
    shutil.copytree(SPECIMEN, folder, dirs_exist_ok=True)
    shutil.copy(ROOT / "sw_audit/index/published.toml", folder)
    shutil.copy(ROOT / "tests/record/data/schema-2.json", folder)
    (folder / "policy.toml").write_text(_POLICY, encoding="utf-8")
    path, counts, examples = folder / name, Counter[str](), list[str]()
    whole = path.read_bytes()
    for number in range(count):
        path.write_bytes(spoil(whole, random.Random(f"{kind} {seed} {number}")))  # noqa: S311 - no secret
        try:
            signal.alarm(SECONDS)
            read(path)
            counts["read"] += 1
        except (AuditError, DamagedFileError):
            counts["refused"] += 1
        except BaseException as error:
            counts["defects"] += 1
            examples.append(f"{kind} {seed} {number}: {type(error).__name__}: {error}"[:200])
        finally:
            signal.alarm(0)
    return Row(kind, count, counts["read"], counts["refused"], counts["defects"], tuple(examples[:5]))


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


_POLICY = """
seed = 3
expect = "some"
[corpus]
windows = 8
[quantization]
recipes = ["int4/64x64"]
[[model]]
source = "org/model"
id = "it"
[checks.perplexity-ratio]
maximum_ratio = 1.05
[[waiver]]
check = "perplexity-ratio"
model = "*"
until = 2027-03-31
owner = "Ada"
reason = "known"
"""
