"""Looking at a checkpoint before anything is computed: what loads without a complaint can still be noise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.headers import DamagedFileError
from sw_audit.checkpoint.inspection import list_weight_files
from sw_audit.checkpoint.lint_files import hold_against_index, hold_against_manifest
from sw_audit.checkpoint.lint_formats import hold_against_config
from sw_audit.checkpoint.lint_model import hold_against_model
from sw_audit.checkpoint.lint_values import scan_values
from sw_audit.checkpoint.source import find_folder, quote_source
from sw_audit.checkpoint.stored import StoredTensors, open_stored
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.weights import LISTED, Flaw, FlawKind, WeightsReport

_AGAIN = "download or copy the checkpoint again, and compare its digests"
_WRITER = "write the checkpoint again with the library that quantized it, config.json included"
_REMEDIES: dict[FlawKind, str] = {
    "unreadable": _AGAIN,
    "missing-tensor": "compare config.json with the weights, or write the checkpoint again",
    "unexpected-tensor": "compare config.json with the weights, or write the checkpoint again",
    "mismatched-tensor": "compare config.json with the weights, or write the checkpoint again",
    "loading-message": "compare config.json with the weights, or write the checkpoint again",
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


def lint_checkpoint(wanted: ModelPolicy, *, headers_only: bool = False) -> WeightsReport:
    """Look at the files of a checkpoint, value by value, without making a model that could run.

    What headers tell comes first: whether files are whole and agree with the index and the manifest, whether
    suffixes and dtypes agree with `quantization_config`, and, where the weights are not quantized, whether they
    are exactly the tensors that the model asks for. Then every value is read once: anything not finite, matrices
    and groups without information, scales that cannot be.

    Args:
        wanted: The model.
        headers_only: Whether to look no further than headers, index and configuration.

    Returns:
        What was found; a healthy checkpoint has no serious flaw.

    Raises:
        CheckpointError: If there is no checkpoint to look at: no folder, no configuration, no weights.
    """
    folder = find_folder(wanted, fetch=True)
    if folder is None:  # pragma: no cover - fetching finds a folder or raises
        raise CheckpointError(quote_source(wanted), "there is no such folder", "correct the path")
    try:
        files = list_weight_files(folder, wanted)
    except BrokenWeightsError as error:
        return report_broken(error)
    try:
        stored = open_stored(files)
    except DamagedFileError as error:
        return report_flaws([Flaw(kind="unreadable", where=error.where, found=error.found)], len(files))
    config = _read_config(folder)
    flaws = list(_hold_headers(folder, wanted, config, stored))
    if headers_only:
        return report_flaws(flaws, len(files), len(stored.shapes))
    if config is not None and not any(flaw.serious for flaw in flaws):
        flaws += hold_against_model(folder, wanted, config, stored)
    flaws += scan_values(stored, config)
    return report_flaws(
        flaws, len(files), len(stored.shapes), stored.scanned, manifest=wanted.manifest is not None
    )


def report_broken(error: BrokenWeightsError) -> WeightsReport:
    """Report a checkpoint that would not open because of its weights.

    Args:
        error: Why it would not open.
    """
    # The kind crosses as text, for errors know no facts; the report holds it to one that there is.
    flaw = Flaw.model_validate({"kind": error.kind, "where": error.where or error.asked, "found": error.found})
    return report_flaws([flaw], 0).model_copy(update={"remedy": error.remedy})


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
    found = sorted(flaws, key=lambda flaw: not flaw.serious)
    counts = Counter(flaw.kind for flaw in found)
    seen: Counter[FlawKind] = Counter()
    listed = []
    for flaw in found:
        seen[flaw.kind] += 1
        if seen[flaw.kind] <= LISTED:
            listed.append(flaw)
    return WeightsReport(
        files=files,
        tensors=tensors,
        scanned=scanned,
        flaws=tuple(listed),
        counts={str(kind): count for kind, count in counts.items()},
        serious=sum(flaw.serious for flaw in found),
        manifest=manifest,
        remedy=_REMEDIES[listed[0].kind] if listed and listed[0].serious else None,
    )


def _hold_headers(
    folder: Path, wanted: ModelPolicy, config: dict[str, Any] | None, stored: StoredTensors
) -> Iterator[Flaw]:
    yield from hold_against_index(folder, stored)
    yield from hold_against_manifest(folder, wanted, stored)
    if config is not None:
        yield from hold_against_config(config, stored)


def _read_config(folder: Path) -> dict[str, Any] | None:
    """Read config.json; `None` where there is none or it cannot be read, which opening complains of."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
