"""The model card of a quantized checkpoint: what was done, and what it is good for."""

from __future__ import annotations

import shlex
from pathlib import Path

from sw_audit.policy.recipe import parse_recipe
from sw_audit.policy.storage import explain_holdout
from sw_audit.record.export import Export

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
    """Write the model card of an export, in Markdown.

    Args:
        done: What was done.
        folder_name: What the checkpoint is called.
    """
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
