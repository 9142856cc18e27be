"""`sw-audit quantize`: round a model's weights to nearest, hold its super weights out, and write a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sw_audit.checkpoint.dtype import keep_stored_dtype
from sw_audit.checkpoint.folder import CheckpointFolder, inspect_checkpoint
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.cli.options import AsJson, AskModel, Model
from sw_audit.cli.printing import print_json, print_line
from sw_audit.cli.progress import show_progress
from sw_audit.errors import PolicyError
from sw_audit.export.checkpoint import ExportOrder, export_checkpoint
from sw_audit.export.folder import check_place
from sw_audit.export.packing import require_packing
from sw_audit.policy.recipe import explain_holdout, parse_recipe
from sw_audit.record.address import WeightAddress, parse_address
from sw_audit.record.checkpoint import Export
from sw_audit.record.store import check_writable
from sw_audit.runner.single import calibrate_on_prompt, locate_model


def quantize(
    model: Model,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="RECIPE",
            help="How to round: int2 to int8, nf3 or nf4, then what shares a scale, then options; such as "
            "int4/128x128, int4/group128/symmetric, nf4/group64, int4/tensor/z9.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write the checkpoint into.")],
    *,
    holdout: Annotated[
        list[str] | None,
        typer.Option(
            metavar="auto|none|ADDRESS",
            help="What to hold out: the super weights that are located (auto, the default), nothing, or a weight "
            "such as 'model.layers.2.mlp.down_proj.weight[3968, 7003]'; addresses can be given several times.",
        ),
    ] = None,
    form: Annotated[
        Literal["dense", "compressed-tensors"],
        typer.Option("--format", help="dense: dequantized weights; compressed-tensors: packed codes and scales."),
    ] = "dense",
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Quantize only matrices of such names; can be given several times."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave matrices of such names alone; can be given several times."),
    ] = None,
    ask: AskModel,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the folder.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Quantize a model by round-to-nearest, with its super weights held out, and write it.

    The checkpoint opens with transformers, without sw-audit; what was done stands in the metadata of its weight
    files and in its model card.

    For example:

      sw-audit quantize specimen --recipe int4/64x64/z9 -o ./specimen-w4

      sw-audit quantize ./llama --recipe int4/group128/symmetric --format compressed-tensors -o ./llama-w4

      sw-audit quantize ./llama --recipe nf4/group64 --holdout none --ignore '*.down_proj' -o ./llama-nf4
    """
    parsed = parse_recipe(recipe)
    if form == "compressed-tensors":
        require_packing(parsed)
    named = _read_holdout(holdout or ["auto"])
    chosen = ask(model)
    source = CheckpointFolder.find(chosen, fetch=False)
    check_place(out, None if source is None else source.path, force=force)
    check_writable(out.resolve().parent)
    inspect_checkpoint(chosen)
    with show_progress(quiet=quiet) as progress:
        progress(f"opening {chosen.source}", 0, 1)
        checkpoint = open_checkpoint(keep_stored_dtype(chosen))
        held, because = _choose_holdout(checkpoint, named)
        order = ExportOrder(parsed, form, held, because, tuple(target or ()), tuple(ignore or ()))
        calibrations = calibrate_on_prompt(checkpoint) if parsed.weighs_columns else ()
        done = export_checkpoint(checkpoint, order, out, CheckpointFolder.require(chosen), progress, calibrations)
    if as_json:
        print_json(done.model_dump(mode="json"))
    elif not quiet:
        _print(done, out)


def _read_holdout(words: list[str]) -> tuple[WeightAddress, ...] | None:
    """Return the addresses that are named, none for `none`; `None` where they are to be located."""
    if len(words) > 1 and {"auto", "none"} & set(words):
        together = f"{words[0]!r} and {words[1]!r} together"
        raise PolicyError("--holdout", together, "say auto, none, or one or more addresses")
    if words == ["auto"]:
        return None
    return () if words == ["none"] else tuple(parse_address(word) for word in words)


def _choose_holdout(
    checkpoint: Checkpoint, named: tuple[WeightAddress, ...] | None
) -> tuple[tuple[WeightAddress, ...], str]:
    if named is not None:
        return named, "named by the user" if named else "nothing was to be held out"
    location = locate_model(checkpoint)
    return location.addresses, f"{location.outcome}: {location.because}"


def _print(done: Export, out: Path) -> None:
    matrices = "1 matrix" if done.matrices == 1 else f"{done.matrices} matrices"
    print_line(f"{done.source}: {matrices} rounded with {done.recipe}, {done.bits_per_weight:.3f} bits per weight")
    for match in done.patterns:
        print_line(f"{match.role} {match.pattern!r} matched {match.matrices}")
    for held in done.held_out:
        print_line(f"held out: {held.address} = {held.value:.6g}")
    if done.held_out:
        print_line(explain_holdout(parse_recipe(done.recipe)))
    else:
        print_line(f"nothing is held out: {done.because}")
    for module in done.untouched:
        print_line(f"left in {done.dtype} for its sake: {module}")
    print_line(f"wrote {out}")
