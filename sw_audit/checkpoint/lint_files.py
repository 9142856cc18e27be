"""Files against what is said of them: an index that maps tensors to shards, a manifest of digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from sw_audit.checkpoint.source import quote_source
from sw_audit.checkpoint.stored import StoredTensors
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.weights import Flaw

_INDEX = "model.safetensors.index.json"
_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")


def hold_against_index(folder: Path, stored: StoredTensors) -> Iterator[Flaw]:
    """Hold shards against their index, both ways.

    Args:
        folder: Where the files are.
        stored: What the files hold; more than one file means shards.
    """
    for name in stored.twice:
        yield Flaw(kind="shard-index", where=name, found="two shards hold a tensor of this name")
    single = folder / "model.safetensors"
    if not (folder / _INDEX).is_file() or not stored.safe:
        return
    promised = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    if single.exists():
        found = f"{single.name} lies beside it and is what is loaded; the shards are left over"
        yield Flaw(kind="shard-index", where=_INDEX, found=found, serious=False)
        return
    for name, shard in promised.items():
        held = stored.shapes.get(name)
        if held is None or held.file != shard:
            yield Flaw(kind="shard-index", where=name, found=f"the index promises it in {shard}, which has it not")
    for name, shape in stored.shapes.items():
        if name not in promised:
            found = f"{shape.file} holds it, the index does not name it"
            yield Flaw(kind="shard-index", where=name, found=found, serious=False)


def hold_against_manifest(folder: Path, wanted: ModelPolicy, stored: StoredTensors) -> Iterator[Flaw]:
    """Hold the sha256 of files against a manifest, if one is given.

    Raises:
        CheckpointError: If the manifest cannot be read.
    """
    if wanted.manifest is None:
        return
    digests = _read_manifest(Path(wanted.manifest).expanduser(), wanted)
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            yield Flaw(kind="digest", where=name, found="the manifest names it, and there is no such file")
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            words = f"its sha256 is {found[:12]}..., the manifest says {digest[:12]}..."
            yield Flaw(kind="digest", where=name, found=words)
    for name in sorted({shape.file for shape in stored.shapes.values()} - set(digests)):
        yield Flaw(kind="digest", where=name, found="the manifest does not name it", serious=False)


def _read_manifest(path: Path, wanted: ModelPolicy) -> dict[str, str]:
    asked = f"{quote_source(wanted)}, manifest {str(path)!r}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(asked, f"it cannot be read ({error})", "correct the path") from error
    matches = [_LINE.fullmatch(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    if not matches or not all(matches):
        remedy = "write it with `sha256sum *.safetensors` in the folder of the checkpoint"
        raise CheckpointError(asked, "a line is not of the form `sha256  name`", remedy)
    return {match["name"].removeprefix("./"): match["digest"].lower() for match in matches if match}
