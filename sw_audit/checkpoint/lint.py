"""Looking at a checkpoint before anything is computed: what loads without a complaint can still be noise."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from sw_audit.checkpoint.agreement import compare_with_config
from sw_audit.checkpoint.folder import INDEX, WEIGHTS, CheckpointFolder
from sw_audit.checkpoint.headers import DamagedFileError
from sw_audit.checkpoint.lint_values import scan_values
from sw_audit.checkpoint.stored import StoredTensors, open_stored
from sw_audit.checkpoint.streaming import CannotStreamError, open_streaming
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.weights import LISTED, Flaw, FlawKind, WeightsReport

_AGAIN = "download or copy the checkpoint again, and compare its digests"
_COMPARE = "compare config.json with the weights, or write the checkpoint again"
_WRITER = "write the checkpoint again with the library that quantized it, config.json included"
_REMEDIES: dict[FlawKind, str] = {
    "unreadable": _AGAIN,
    "missing-tensor": _COMPARE,
    "unexpected-tensor": _COMPARE,
    "mismatched-tensor": _COMPARE,
    "loading-message": _COMPARE,
    "non-finite": "take an earlier checkpoint, or quantize again from one that is finite",
    "constant": _AGAIN,
    "zero-group": _AGAIN,
    "degenerate-scale": "quantize again, and look at the calibration of that module first",
    "codes-without-config": "put the `quantization_config` of the quantized model back into config.json",
    "config-without-codes": _WRITER,
    "unknown-method": "name a method in `quant_method` that transformers knows, or install what adds it",
    "shard-index": _AGAIN,
    "tied-weights": "set `tie_word_embeddings` in config.json to what the weights are, or leave one of them out",
    "digest": _AGAIN,
    "unquantized-experts": _WRITER,
}
_DIGEST_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


def lint_checkpoint(policy: ModelPolicy, *, headers_only: bool = False) -> WeightsReport:
    """Look at the files of a checkpoint, value by value, without making a model that could run.

    1. Headers: whether files are whole and agree with the index and the manifest, and whether suffixes and dtypes
       agree with `quantization_config`.
    2. The model, without data: where weights are not quantized, whether they are exactly the tensors that it asks
       for.
    3. Values, each read once: anything not finite, matrices and groups without information, scales that cannot be.

    Args:
        policy: The model.
        headers_only: Whether to look no further than headers, index and configuration.

    Returns:
        What was found; a healthy checkpoint has no serious flaw.

    Raises:
        CheckpointError: If there is no checkpoint to look at: no folder, no configuration, no weights.
    """
    folder = CheckpointFolder.require(policy)
    try:
        files = len(folder.weight_files)
    except BrokenWeightsError as error:
        return report_broken(error)
    try:
        stored = open_stored(folder)
    except DamagedFileError as error:
        return report_flaws([Flaw(kind="unreadable", where=error.where, found=error.found)], files)
    flaws = [*_compare_with_index(folder, stored), *_compare_with_manifest(folder, stored)]
    if folder.declared:
        flaws += compare_with_config(folder, stored)
    if headers_only:
        return report_flaws(flaws, files, len(stored.headers))
    if folder.declared and not any(flaw.serious for flaw in flaws):
        flaws += _compare_tied(folder, stored)
        flaws += _compare_with_model(folder, stored)
    flaws += scan_values(folder, stored)
    return report_flaws(flaws, files, len(stored.headers), stored.scanned, manifest=policy.manifest is not None)


def report_broken(error: BrokenWeightsError) -> WeightsReport:
    """Report a checkpoint that would not open because of its weights."""
    return report_flaws([_read_flaw(error)], 0).model_copy(update={"remedy": error.remedy})


def add_flaw(report: WeightsReport, error: BrokenWeightsError) -> WeightsReport:
    """Add to what a static look found why the checkpoint would not open after it."""
    broken = report_broken(error)
    counts = Counter(report.counts) + Counter(broken.counts)
    update = {
        "flaws": (*broken.flaws, *report.flaws),
        "counts": dict(counts),
        "serious": report.serious + 1,
        "remedy": broken.remedy,
    }
    return report.model_copy(update=update)


def report_flaws(
    flaws: Iterable[Flaw], files: int, tensors: int = 0, scanned: int = 0, *, manifest: bool = False
) -> WeightsReport:
    """Put flaws into a report: serious ones first, of each kind no more than can be read."""
    ordered = sorted(flaws, key=lambda flaw: not flaw.serious)
    counts: Counter[FlawKind] = Counter()
    listed = []
    for flaw in ordered:
        counts[flaw.kind] += 1
        if counts[flaw.kind] <= LISTED:
            listed.append(flaw)
    return WeightsReport(
        files=files,
        tensors=tensors,
        scanned=scanned,
        flaws=tuple(listed),
        counts={str(kind): count for kind, count in counts.items()},
        serious=sum(flaw.serious for flaw in ordered),
        manifest=manifest,
        remedy=_REMEDIES[listed[0].kind] if listed and listed[0].serious else None,
    )


def _read_flaw(error: BrokenWeightsError) -> Flaw:
    # The kind crosses as text, for errors know no facts; the report holds it to one that there is.
    return Flaw.model_validate({"kind": error.kind, "where": error.where or error.asked, "found": error.found})


def _compare_with_index(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Hold shards against their index, both ways."""
    for name in stored.repeated:
        yield Flaw(kind="shard-index", where=name, found="two shards hold a tensor of this name")
    if not stored.all_safetensors or not folder.index:
        return
    if (folder.path / WEIGHTS).exists():
        found = f"{WEIGHTS} lies beside it and is what is loaded; the shards are left over"
        yield Flaw(kind="shard-index", where=INDEX, found=found, serious=False)
        return
    for name, shard in folder.index.items():
        header = stored.headers.get(name)
        if header is None or header.file != shard:
            yield Flaw(kind="shard-index", where=name, found=f"the index promises it in {shard}, which has it not")
    for name, header in stored.headers.items():
        if name not in folder.index:
            found = f"{header.file} holds it, the index does not name it"
            yield Flaw(kind="shard-index", where=name, found=found, serious=False)


def _compare_with_manifest(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Hold the sha256 of files against a manifest, if one is given."""
    if folder.policy.manifest is None:
        return
    digests = _read_manifest(Path(folder.policy.manifest).expanduser(), folder)
    for name, promised in digests.items():
        path = folder.path / name
        if not path.is_file():
            yield Flaw(kind="digest", where=name, found="the manifest names it, and there is no such file")
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != promised:
            found = f"its sha256 is {digest[:12]}..., the manifest says {promised[:12]}..."
            yield Flaw(kind="digest", where=name, found=found)
    for name in sorted({header.file for header in stored.headers.values()} - set(digests)):
        yield Flaw(kind="digest", where=name, found="the manifest does not name it", serious=False)


def _read_manifest(path: Path, folder: CheckpointFolder) -> dict[str, str]:
    asked = f"{folder.asked}, manifest {str(path)!r}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(asked, f"it cannot be read ({error})", "correct the path") from error
    matches = [_DIGEST_LINE.fullmatch(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    if not matches or not all(matches):
        remedy = "write it with `sha256sum *.safetensors` in the folder of the checkpoint"
        raise CheckpointError(asked, "a line is not of the form `sha256  name`", remedy)
    return {match["name"].removeprefix("./"): match["digest"].lower() for match in matches if match}


def _compare_tied(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Where the configuration ties head and embedding and both are stored, they have to be the same."""
    text = folder.declared.get("text_config")
    parts = [folder.declared, text if isinstance(text, dict) else {}]
    if not any(part.get("tie_word_embeddings") for part in parts):
        return
    head, embedding = (
        next((name for name in stored.headers if name.endswith(ends)), None) for ends in (_HEADS, _EMBEDDINGS)
    )
    if head is None or embedding is None:
        return
    first, second = stored.read(head), stored.read(embedding)
    if first is None or second is None or first.dtype.is_floating_point is not second.dtype.is_floating_point:
        return
    if first.shape != second.shape or not torch.equal(first, second):
        found = f"config.json ties it to {embedding}, and the two are stored with different values"
        yield Flaw(kind="tied-weights", where=head, found=found)


def _compare_with_model(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Hold names and shapes of tensors that are not quantized against those that the model asks for."""
    if not folder.is_plain or not stored.all_safetensors:
        return
    try:
        open_streaming(folder.policy, digest=False)
    except BrokenWeightsError as error:
        yield _read_flaw(error)
    except (CheckpointError, CannotStreamError):
        # Whatever else hinders it is told by opening, which comes next.
        return
