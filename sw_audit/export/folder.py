"""A checkpoint's folder, which is written whole or not at all: its files' metadata and its model card."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from sw_audit.errors import OutputError
from sw_audit.policy.recipe import explain_holdout, parse_recipe
from sw_audit.record.checkpoint import Export


def check_place(folder: Path, source: Path | None, *, force: bool) -> None:
    """Complain, before anything heavy is done, about a folder that must not be written.

    `source` is where the model comes from, if it is on this machine; `force` lets what is there be replaced.

    Raises:
        OutputError: If it is no folder, holds something, or is or holds the model itself.
    """
    asked = f"output folder {folder}"
    own = None if source is None else source.resolve()
    if own is not None and (own == folder.resolve() or folder.resolve() in own.parents):
        raise OutputError(asked, "the model itself is there", "choose another folder")
    if folder.exists() and not folder.is_dir():
        raise OutputError(asked, "it is a file", "choose a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputError(asked, "it is not empty", "choose another folder, or replace it with --force")


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add entries to the metadata of a safetensors file; the tensors stay as they are, byte for byte."""
    written = path.with_name(f".{path.name}.tmp")
    with path.open("rb") as old, written.open("xb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        header["__metadata__"] = {**header.get("__metadata__", {}), **entries}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        # The format wants the tensors to begin at a multiple of eight, and allows spaces for that.
        text += b" " * (-len(text) % 8)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new, 1 << 24)
    written.replace(path)


_FORMS = {
    "dense": (
        'The weights are dequantized ("fake-quantized"): rounded to the grid of the recipe and stored in {dtype}, '
        "so that any software opens them. The files are no smaller than those of the original."
    ),
    "compressed-tensors": (
        "The weights are packed codes and scales in the format of "
        "[compressed-tensors](https://github.com/vllm-project/compressed-tensors), which has to be installed to "
        "open them. Scales are stored in {dtype}."
    ),
}


def write_card(done: Export, folder_name: str) -> str:
    """Write the model card of an export, in Markdown."""
    revision = f" at {done.revision}" if done.revision else ""
    parts = [
        "---",
        *([f"base_model: {done.source}"] if _is_hub_id(done.source) else []),
        "library_name: transformers",
        "tags: [quantized, round-to-nearest, sw-audit]",
        "---",
        "",
        f"# {folder_name}",
        "",
        f"`{done.source}`{revision}, rounded to nearest by {done.tool} with the recipe `{done.recipe}`.",
        "",
        _FORMS[done.form].format(dtype=done.dtype),
        "",
        f"- Quantized: {done.matrices} decoder matrices. Embeddings, head and norms are not.",
        *(f"- Pattern `{match.pattern}` ({match.role}) matched {match.matrices}." for match in done.patterns),
        f"- Bits per weight of the recipe, scales and held-out weights included: {done.bits_per_weight:.3f} over "
        "the decoder's matrices.",
        f"- Digest of the original's weight files (sha256): `{done.digest}`",
        "",
        "## Held out",
        "",
        *_describe_kept(done),
        "",
        "## Before you use it",
        "",
        "Rounding can break a model without a word. Hold it against its parent:",
        "",
        f"    sw-audit audit {shlex.quote(done.source)} {shlex.quote(folder_name)}",
        "",
    ]
    return "\n".join(parts)


def _describe_kept(done: Export) -> list[str]:
    if not done.held_out:
        return [f"Nothing: {done.because}."]
    meaning = "These weights were taken out before ranges were computed, and are stored as they were"
    table = [f"{meaning} ({done.because}).", "", explain_holdout(parse_recipe(done.recipe))]
    table += ["", "| weight | value |", "|---|---|"]
    table += [f"| `{weight.address}` | {weight.value!r} |" for weight in done.held_out]
    if done.untouched:
        table += ["", f"For their sake these modules stay in {done.dtype}: {', '.join(done.untouched)}."]
    return table


def _is_hub_id(source: str) -> bool:
    """Whether a hub would know it: a path means nothing to others."""
    return source.count("/") == 1 and not source.startswith(("/", ".", "~")) and not Path(source).exists()
