"""`sw-audit compare-quantizers`: round-to-nearest beside what other libraries make of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sw_audit.cli.comparison import print_comparison, take_comparison
from sw_audit.cli.options import AsJson, AskModel, Model, describe
from sw_audit.cli.printing import print_json
from sw_audit.cli.progress import show_progress
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import overlay_policy, read_policy
from sw_audit.record import rendering
from sw_audit.record.record import Record
from sw_audit.record.store import check_writable, encode_record, write_texts
from sw_audit.runner import compare, run

NOTHING_COMPARED = 3
_NONE = "none"
_MODEL_KEYS = ("source", "family", "layers", "revision", "dtype", "device")


def compare_quantizers(
    model: Model,
    *,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Other libraries' methods, separated by commas, or 'none'. By default all that sw-audit knows; "
            "one whose package is missing is a row that says so.",
        ),
    ] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPES",
            help="Recipes of round-to-nearest, separated by commas, such as int4/64x64,int4/tensor/z9; each is "
            "measured plain and with the super weights held out.",
        ),
    ] = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for record.json and report.html.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html too, where --out is given.")] = True,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy that says which text, and how intervals are drawn.")
    ] = None,
    corpus: Annotated[str | None, describe("corpus")] = None,
    windows: Annotated[int | None, describe("windows")] = None,
    calibration_windows: Annotated[
        int | None,
        typer.Option(
            "--calibration-windows",
            metavar="N",
            help="Give methods that learn from text at most so many further windows of it.",
        ),
    ] = None,
    ask: AskModel,
    seed: Annotated[int | None, describe("seed")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the last line only.")] = False,
) -> None:
    """Compare quantizers on one protocol: quality, bits per weight, seconds, memory.

    Any table is an answer: the exit code is 0, and 3 only if nothing at all could be measured.

    For example:

      sw-audit compare-quantizers specimen

      sw-audit compare-quantizers ./llama --corpus wikitext.txt --out comparison

      sw-audit compare-quantizers ./llama --methods bitsandbytes-nf4,hqq-int4 --recipes nf4/group64

      sw-audit compare-quantizers specimen --methods none --json
    """
    below = Policy() if policy is None else read_policy(policy)
    named = None if recipes is None else _split(recipes)
    if named is None and "quantization" not in below.model_fields_set:
        named = list(compare.RECIPES)
    asked = overlay_policy(
        below,
        models=[ask(model)],
        corpus=corpus,
        windows=windows,
        recipes=named,
        activations=None if calibration_windows is None else {"calibration_windows": calibration_windows},
        seed=seed,
    )
    if out is not None:
        check_writable(out)
    chosen = None if methods is None else [] if methods.strip().lower() == _NONE else _split(methods)
    run.preflight(asked)
    compare.check_methods(chosen)
    with show_progress(quiet=quiet) as progress:
        record = compare.compare_quantizers(asked, chosen, progress)
    files = {} if out is None else _write(record, out, report)
    if as_json:
        print_json(describe_comparison(record))
    else:
        print_comparison(record, files, quiet=quiet)
    if not take_comparison(record)[1].measured:
        raise typer.Exit(NOTHING_COMPARED)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _write(record: Record, folder: Path, report: bool) -> dict[str, Path]:
    files = {"record": folder / "record.json"}
    texts = {files["record"]: encode_record(record)}
    if report:
        files["report"] = folder / "report.html"
        texts[files["report"]] = rendering.render_record(record)
    write_texts(texts)
    return files


def describe_comparison(record: Record) -> dict[str, Any]:
    """Put a comparison into the JSON object that other programs read."""
    result, comparison = take_comparison(record)
    content = comparison.model_dump(mode="json")
    return {
        "schema": 1,
        "model": {
            **{key: getattr(result.model, key) for key in _MODEL_KEYS},
            "digest": result.model.digest or None,
        },
        "protocol": {"signature": comparison.protocol, **result.protocol.model_dump(mode="json")},
        **{key: content[key] for key in ("baseline", "dtype_bits", "confidence", "calibration_windows")},
        "rows": [{"name": row.name, **plain} for row, plain in zip(comparison.rows, content["rows"], strict=True)],
        "seconds": result.seconds,
    }
