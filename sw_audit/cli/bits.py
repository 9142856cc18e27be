"""`sw-audit bits`: what every bit of the scalars that matter does, and whether their bytes are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import sw_audit
from sw_audit.cli.options import AsJson, AskModel, Model
from sw_audit.cli.printing import Output, make_table, print_line
from sw_audit.cli.progress import show_progress
from sw_audit.critical_bytes import check_bytes
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import overlay_policy, read_policy
from sw_audit.record.address import parse_scalar
from sw_audit.record.bits import BitSheet, FlippedBit, describe_bits
from sw_audit.record.store import check_writable

SHOWN = 20
"""So many of the worst bits are printed."""
CHANGED = 1


def bits(
    model: Model,
    *,
    as_json: AsJson = False,
    ask: AskModel,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure nothing: hold the bytes that this digest file names against those of the folder MODEL.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write bits.json, bits.csv and critical-bytes.json there."),
    ] = None,
    scalars: Annotated[
        int, typer.Option(metavar="N", help="The bits of so many scalars, those that cost most.", min=1)
    ] = 8,
    scalar: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="The bits of this one, such as model.norm.weight[17], without a search. Can be repeated.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Policy whose [corpus] and [critical] say how to search."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="A file, a data set, english, specimen, or own: what the model itself writes."
        ),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many windows of that text.", min=1)
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", help="How many scalars are tried, of highest gradient first.")
    ] = None,
) -> None:
    """Flip every bit of the scalars that matter, measure each, and digest their bytes for loaders.

    In packed formats the bits of a scalar are those of its code, and those of the scales that it is decoded with.
    Files are only read.

    Exit codes: 0 done, or all bytes are what they were; 1 with --check: some are not; 2 input error.

    For example:

      sw-audit bits ./out/llama-w4 --out ./bits

      sw-audit bits ./model.gguf --scalar "model.norm.weight[17]" --corpus wikitext.txt

      sw-audit bits --check ./bits/critical-bytes.json ./out/llama-w4
    """
    if check is not None:
        _check(check, Path(model))
        return
    below = Policy() if policy is None else read_policy(policy)
    named = [parse_scalar(one) for one in scalar or ()]
    chosen = ask(model)
    if chosen.bos == "auto":
        chosen = chosen.model_copy(update={"bos": below.corpus.bos})
    tried = None if candidates is None else {"candidates": candidates}
    asking = overlay_policy(below, models=[chosen], corpus=corpus, windows=windows, critical=tried)
    if out is not None:
        check_writable(out.resolve().parent)
    with show_progress() as progress:
        sheet = sw_audit.make_bit_sheet(chosen, asking, named, scalars, progress)
    if as_json:
        typer.echo(describe_bits(sheet), nl=False)
    else:
        print_sheet(sheet)
    if out is not None:
        files = sw_audit.write_bit_sheet(sheet, chosen, out)
        if not as_json:
            Output().print_files(files.items())


def _check(digest_file: Path, folder: Path) -> None:
    faults = check_bytes(digest_file, folder)
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        print_line(f"changed: {faults[0]}{more}")
        raise typer.Exit(CHANGED)
    print_line("unchanged: every byte that the digest file names is what it was")


def print_sheet(sheet: BitSheet) -> None:
    """Print the worst bits of a sheet; offsets are those of bytes in the file."""
    output = Output()
    output.print_lines(f"{sheet.model}: {sheet.summary}", style="bold")
    output.print_lines(f"on {sheet.text} ({sheet.windows} windows of {sheet.window} tokens at most)")
    if sheet.bits:
        head = ("scalar", "file", "byte", "bit", "is", "value", "byte", "perplexity", "interval")
        rows = [_write_bit(bit) for bit in sheet.bits[:SHOWN]]
        title = f"the worst {len(rows)} of {len(sheet.bits)} bits: times the perplexity"
        output.print_whole(make_table(head, rows, title=title, title_justify="left"))
    elif not sheet.scalars:
        output.print_lines("no scalar is known to matter on this text, so no bit was flipped")
    output.print_lines(*(f"not placed: {one.scalar}: {one.because}" for one in sheet.unplaced))
    output.print_lines(*(f"note: {note}" for note in sheet.notes))


def _write_bit(bit: FlippedBit) -> tuple[str, ...]:
    place = "" if bit.place is None else f" {bit.place}"
    after = "not finite" if bit.after is None else f"{bit.after:.6g}"
    ratio, interval = "not measured", "-"
    if bit.destroys:
        ratio = "not finite"
    elif bit.effect is not None:
        ratio = f"{bit.effect.ratio:,.4g}" if bit.effect.ratio is not None else "not finite"
        low, high = ("not finite" if end is None else f"{end:,.4g}" for end in (bit.effect.low, bit.effect.high))
        interval = "-" if bit.effect.low is None and bit.effect.high is None else f"{low} to {high}"
    return (
        str(bit.scalar),
        bit.file,
        str(bit.offset),
        str(bit.bit),
        f"{bit.part}, {bit.kind}{place}",
        f"{bit.before:.6g} -> {after}",
        f"{bit.byte:02x} -> {bit.byte_after:02x}",
        ratio,
        interval,
    )
