"""The sheet of bits of a model: which scalars matter, where each is stored, and what each of its bits does."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.stored_bits import StoredModel, UnplacedError
from sw_audit.critical.bits import SCALARS, measure_bits
from sw_audit.critical.search import MOST_TOKENS, cut_text, search_by_policy
from sw_audit.critical_bytes import digest_bytes
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.printable import printable
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.address import ScalarAddress
from sw_audit.record.bits import BitSheet, FlippedBit, describe_bits
from sw_audit.record.critical import Effect
from sw_audit.record.store import check_writable, write_texts
from sw_audit.runner.critical import OWN_TEXT
from sw_audit.runner.single import locate_model
from sw_audit.runner.text import settle_corpus

SHEET, TABLE, DIGEST = "bits.json", "bits.csv", "critical-bytes.json"
COLUMNS = (
    "rank", "parameter", "index", "file", "byte_offset", "bit", "part", "kind", "tensor", "dtype", "value_before",
    "value_after", "byte_before", "byte_after", "scalars_changed", "perplexity_ratio", "low", "high", "windows",
)  # fmt: skip
"""The columns of the table. What is not finite is `not finite`, what was not measured is empty."""


def make_bit_sheet(
    model: ModelPolicy,
    policy: Policy,
    scalars: Sequence[ScalarAddress] = (),
    most: int = SCALARS,
    progress: Progress = ignore_progress,
) -> BitSheet:
    """Open a model, find the scalars that matter unless they are given, and flip each of their bits.

    Args:
        model: Which one.
        policy: Its text, and how scalars are searched for.
        scalars: Whose bits; none are those that cost most alone when zeroed.
        most: So many of those.
        progress: Told where the work stands.

    Raises:
        InputError: If the model, the text or a scalar cannot be used, or its files cannot be decoded one by one.
    """
    own = policy.corpus.source == OWN_TEXT
    policy = policy if own else settle_corpus(policy, model)
    progress(f"opening {model.source}", 0, 1)
    try:
        stored = StoredModel(model)
    except UnplacedError as error:
        remedy = "give a checkpoint whose files hold every tensor by itself"
        found = f"it cannot be told where its scalars are stored: {error}"
        raise CheckpointError(f"model {model.source!r}", found, remedy) from error
    checkpoint = open_checkpoint(model).starting(policy.bos_rule(model))
    progress("locating", 0, 1)
    location = locate_model(checkpoint)
    windows, name = cut_text(checkpoint, None if own else policy.corpus, location, policy.seed)
    if not scalars:
        zeroed = policy.critical.model_copy(update={"interventions": ("zero",)})
        asking = policy.model_copy(update={"critical": zeroed})
        _, search = search_by_policy(
            checkpoint, windows, location, asking, name=name, in_audit=False, progress=progress
        )
        scalars = [scalar.address for scalar in search.critical if scalar.effect is not None][:most]
    return measure_bits(
        checkpoint,
        stored,
        scalars,
        windows,
        text=name,
        own_text=own,
        confidence=policy.confidence,
        minimum_ratio=policy.critical.minimum_ratio,
        minimum_windows=policy.minimum_windows,
        most_tokens=None if policy.effort == "thorough" else MOST_TOKENS,
        progress=progress,
    )


def write_bit_sheet(sheet: BitSheet, model: ModelPolicy, folder: Path) -> dict[str, Path]:
    """Write a sheet as JSON and as a table, and the digest of its bytes; all or none.

    Returns:
        What was written, by kind. Of a sheet without bits there is no digest.

    Raises:
        InputError: If the folder cannot be written, or the model's files cannot be read.
    """
    files = {"sheet": folder / SHEET, "table": folder / TABLE}
    texts = {files["sheet"]: describe_bits(sheet), files["table"]: tabulate_bits(sheet.bits)}
    if sheet.bits:
        files["digest"] = folder / DIGEST
        texts[files["digest"]] = json.dumps(_digest(sheet, model), indent=1) + "\n"
    check_writable(folder)
    write_texts(texts)
    return files


def _digest(sheet: BitSheet, model: ModelPolicy) -> dict[str, Any]:
    place = CheckpointFolder.require(model).path
    ranges: dict[Path, list[tuple[int, int]]] = {}
    for bit in sheet.bits:
        ranges.setdefault(place / bit.file, []).append((bit.offset, 1))
    for path in ranges:
        known = {bit.offset: bit.byte for bit in sheet.bits if bit.file == path.name}
        with path.open("rb") as file:
            for offset, byte in known.items():
                file.seek(offset)
                if file.read(1) != bytes([byte]):
                    found = f"byte {offset} of {path.name} is no longer what it was when it was measured"
                    raise CheckpointError(f"model {model.source!r}", found, "measure it again, and leave it alone")
    return digest_bytes(ranges)


def tabulate_bits(bits: Sequence[FlippedBit]) -> str:
    """Put bits into a table of comma-separated values, the worst first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, bit in enumerate(bits, 1):
        writer.writerow(
            (
                rank,
                _as_text(bit.scalar.parameter),
                " ".join(map(str, bit.scalar.index)),
                _as_text(bit.file),
                bit.offset,
                bit.bit,
                bit.part,
                bit.kind,
                _as_text(bit.tensor),
                bit.dtype,
                repr(bit.before),
                "not finite" if bit.after is None else repr(bit.after),
                f"0x{bit.byte:02x}",
                f"0x{bit.byte_after:02x}",
                bit.changed,
                *_list_effect(bit),
            )
        )
    return text.getvalue()


def _as_text(name: str) -> str:
    """Keep a program for tables from taking a name for a formula."""
    name = printable(name)
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def _list_effect(bit: FlippedBit) -> tuple[str, ...]:
    if bit.destroys:
        return "not finite", "", "", str(bit.effect.windows) if bit.effect is not None else ""
    if bit.effect is None:
        return "", "", "", ""
    effect: Effect = bit.effect
    figures = ("" if figure is None else repr(figure) for figure in (effect.ratio, effect.low, effect.high))
    return (*figures, str(effect.windows))
