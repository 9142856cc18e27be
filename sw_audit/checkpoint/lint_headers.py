"""Headers, index, manifest and configuration of a checkpoint beside each other, and how flaws are reported."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sw_audit.checkpoint.bounds import refuse_excess
from sw_audit.checkpoint.folder import INDEX, WEIGHTS, CheckpointFolder
from sw_audit.checkpoint.formats.format import Format, is_code, list_packings
from sw_audit.checkpoint.formats.patterns import ModulePattern, find_left_alone
from sw_audit.checkpoint.headers import FLOATS, DamagedFileError
from sw_audit.checkpoint.lint_gguf import lint_layout
from sw_audit.checkpoint.stored import StoredTensors, open_stored
from sw_audit.checkpoint.surroundings import look_around
from sw_audit.errors import BrokenWeightsError, CheckpointError, UnfitCheckpointError
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.checkpoint import LISTED, Flaw, FlawKind, WeightsReport

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
    "codes-left-alone": "quantize again, and see that what is to be left out is left out when it is stored, too",
    "gguf-layout": _AGAIN,
    "unfit": _AGAIN,
    "gguf-tokenizer": "convert the model to GGUF again, with its own tokenizer",
}
_CODES = tuple(sorted({packing.codes for packing in list_packings()}, key=len, reverse=True))
_DIGEST_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")


def lint_headers(policy: ModelPolicy) -> WeightsReport:
    """Look at the headers of a checkpoint beside its index, its manifest and its configuration; no weight is read.

    Raises:
        CheckpointError: If there is no checkpoint to look at: no folder, no configuration, no weights.
    """
    return look_at_headers(policy).report()


@dataclass
class Look:
    """What a static look has found: `stored` is `None` where the files cannot be read, for what `remedy` is."""

    folder: CheckpointFolder
    files: int
    stored: StoredTensors | None
    flaws: list[Flaw]
    remedy: str | None = None

    def report(self) -> WeightsReport:
        """Report it."""
        tensors, scanned = (0, 0) if self.stored is None else (len(self.stored.headers), self.stored.scanned)
        manifest = scanned > 0 and self.folder.policy.manifest is not None
        report = report_flaws(self.flaws, self.files, tensors, scanned, manifest=manifest)
        return report if self.remedy is None else report.model_copy(update={"remedy": self.remedy})


def look_at_headers(policy: ModelPolicy) -> Look:
    """Find what the headers of a checkpoint show."""
    folder = CheckpointFolder.require(policy)
    try:
        files = len(folder.weight_files)
    except BrokenWeightsError as error:
        return Look(folder, 0, None, [read_flaw(error)], error.remedy)
    try:
        stored = open_stored(folder)
    except DamagedFileError as error:
        return Look(folder, files, None, [Flaw(kind="unreadable", where=error.where, found=error.found)])
    try:
        refuse_excess(folder, stored.headers)
    except BrokenWeightsError as error:
        return Look(folder, files, stored, [read_flaw(error)], error.remedy)
    flaws = [*_compare_with_index(folder, stored), *_compare_with_manifest(folder, stored)]
    if folder.declared:
        flaws += compare_with_config(folder, stored)
    flaws += look_around(folder)
    for path in list_gguf(folder):
        flaws += lint_layout(path)
    return Look(folder, files, stored, flaws)


def list_gguf(folder: CheckpointFolder) -> list[Path]:
    """List the weight files that are GGUF, if anybody here can read them."""
    return [path for path in folder.weight_files if path.suffix == ".gguf" and find_spec("gguf") is not None]


def report_broken(error: BrokenWeightsError | UnfitCheckpointError) -> WeightsReport:
    """Report a checkpoint that would not open because of its files."""
    return report_flaws([read_flaw(error)], 0).model_copy(update={"remedy": error.remedy})


def add_flaw(report: WeightsReport, error: BrokenWeightsError) -> WeightsReport:
    """Add to what a static look found why the checkpoint would not open after it."""
    flaw = read_flaw(error)
    counts = dict(Counter(report.counts) + Counter([str(flaw.kind)]))
    flaws, serious = (flaw, *report.flaws), report.serious + 1
    update = {"flaws": flaws, "counts": counts, "serious": serious, "remedy": error.remedy}
    return report.model_copy(update=update)


def report_flaws(
    flaws: Iterable[Flaw], files: int, tensors: int = 0, scanned: int = 0, *, manifest: bool = False
) -> WeightsReport:
    """Put flaws into a report: serious ones first, of each kind no more than can be read."""
    counts: Counter[str] = Counter()
    listed, serious = [], 0
    for flaw in sorted(flaws, key=lambda flaw: not flaw.serious):
        counts[flaw.kind] += 1
        serious += flaw.serious
        if counts[flaw.kind] <= LISTED:
            listed.append(flaw)
    return WeightsReport(
        files=files,
        tensors=tensors,
        scanned=scanned,
        flaws=tuple(listed),
        counts=dict(counts),
        serious=serious,
        manifest=manifest,
        remedy=_REMEDIES[listed[0].kind] if listed and listed[0].serious else None,
    )


def read_flaw(error: BrokenWeightsError | UnfitCheckpointError) -> Flaw:
    """Read the flaw that an error tells of."""
    # The kind crosses as text, for errors know no facts; the report holds it to one that there is.
    return Flaw.model_validate({"kind": error.kind, "where": error.where or error.asked, "found": error.found})


def _compare_with_index(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
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


def compare_with_config(folder: CheckpointFolder, stored: StoredTensors) -> Iterator[Flaw]:
    """Yield where tensors are not those that the quantization of config.json makes."""
    known, settings = folder.format, folder.quantization
    codes = [name for name, header in stored.headers.items() if is_code(name, header)]
    if not settings:
        for name in codes:
            found = f"it is stored as {stored.headers[name].dtype}, and config.json has no quantization_config"
            yield Flaw(kind="codes-without-config", where=name, found=found)
        return
    # Imported late: it takes seconds, and headers of plain weights need nothing of it.
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if AUTO_QUANTIZATION_CONFIG_MAPPING.keys().isdisjoint((*known.names_in_transformers, known.method)):
        found = f"transformers knows no quant_method {known.method!r}, and would read the tensors as they are"
        yield Flaw(kind="unknown-method", where="config.json", found=found)
        return
    endings = tuple(sorted({packing.codes for packing in known.packings}))
    if endings and settings.get("format") != "dense" and stored.all_safetensors and stored.headers:
        if not codes:
            found = f"config.json says {known.method}, and every tensor is stored as plain numbers"
            yield Flaw(kind="config-without-codes", where="config.json", found=found)
        elif not any(name.endswith(endings) for name in codes):
            ends = " or ".join(endings)
            found = f"config.json says {known.method}, and no tensor ends in {ends}, but {codes[0]}"
            yield Flaw(kind="config-without-codes", where="config.json", found=found)
    yield from _expect_scales(stored)
    try:
        yield from known.lint_shapes(settings, stored.headers)
        yield from _find_left_alone(known.list_patterns(settings), codes)
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        found = f"what quantization_config says is not what {known.method} writes"
        yield Flaw(kind="config-without-codes", where="config.json", found=found)
    yield from _list_experts(known, codes, stored)


def _find_left_alone(patterns: Sequence[ModulePattern], codes: Iterable[str]) -> Iterator[Flaw]:
    for name in codes:
        module = next((name.removesuffix(ends) for ends in _CODES if name.endswith(ends)), name)
        if (pattern := find_left_alone(patterns, module)) is not None:
            found = f"{pattern.key} {pattern.text!r} of config.json leaves it as it is, and it is stored as codes"
            yield Flaw(kind="codes-left-alone", where=name, found=found)


def _expect_scales(stored: StoredTensors) -> Iterator[Flaw]:
    """Codes whose scales are missing would be decoded with made-up ones."""
    for packing in list_packings():
        for name in stored.headers:
            scales = name.removesuffix(packing.codes) + packing.scales
            if packing.needs_scales and name.endswith(packing.codes) and scales not in stored.headers:
                yield Flaw(kind="missing-tensor", where=scales, found=f"the scales of {name} are missing")


def _list_experts(known: Format, codes: Sequence[str], stored: StoredTensors) -> Iterator[Flaw]:
    experts = [name for name, header in stored.headers.items() if "experts" in name and len(header.shape) > 1]
    plain = [name for name in experts if stored.headers[name].dtype in FLOATS and not name.endswith("bias")]
    if codes and plain and not any("experts" in name for name in codes):
        count = f"{len(plain)} tensors such as this one are plain numbers"
        found = f"{known.method} left the experts as they were: {count}"
        yield Flaw(kind="unquantized-experts", where=plain[0], found=found, serious=False)
