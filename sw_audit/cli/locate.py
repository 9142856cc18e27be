"""`sw-audit locate`: where a model's super weights are, from one forward pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sw_audit.cli.options import AllowPickle, AsJson, Device, Dtype, Model, Revision, TrustRemoteCode
from sw_audit.specimen.shipped import find_shipped

if TYPE_CHECKING:
    from sw_audit.record.identity import ModelIdentity
    from sw_audit.record.location import Depth, Location


def locate(
    model: Model,
    as_json: AsJson = False,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    depth: Annotated[
        Literal["full", "early"],
        typer.Option(help="early reads only the first layers: quicker, but less is known of what persists."),
    ] = "full",
    digest: Annotated[
        bool, typer.Option("--digest", help="Digest the files too, which reads all of them; --update-index does.")
    ] = False,
    update_index: Annotated[
        Path | None,
        typer.Option(
            "--update-index",
            metavar="FILE",
            help="Add the finding, with how it was made, to your own index file; the same one only once.",
        ),
    ] = None,
) -> None:
    """Locate super weights, without any data. Any outcome is an answer: the exit code is 0.

    For example:

      sw-audit locate specimen

      sw-audit locate ./out/llama-w4 --json > location.json

      sw-audit locate ./out/llama --update-index my-index.toml

      sw-audit locate ./larger-than-memory --depth early
    """
    from sw_audit.cli.index import check_own_index, update_own_index
    from sw_audit.policy.policy import ModelPolicy

    if update_index is not None:
        check_own_index(update_index)

    wanted = ModelPolicy(
        source=find_shipped(model),
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    identity, location = locate_quietly(wanted, depth, digest=digest or update_index is not None)
    if update_index is not None:
        typer.echo(update_own_index(update_index, identity, location), err=True)
    if as_json:
        typer.echo(json.dumps(describe(identity, location), indent=2, allow_nan=False, ensure_ascii=False))
    else:
        print_location(identity, location)


def locate_quietly(wanted: Any, depth: Depth, *, digest: bool) -> tuple[ModelIdentity, Location]:
    """Locate with nothing but a bar on the terminal.

    Raises:
        InputError: If the model cannot be used.
    """
    from rich.console import Console
    from tqdm import tqdm

    from sw_audit.checkpoint.inspection import inspect_checkpoint
    from sw_audit.runner.single import locate_model

    inspect_checkpoint(wanted)
    bar: Any = tqdm(
        desc="locating", unit="layer", file=sys.stderr, leave=False, disable=not sys.stderr.isatty(), delay=1e-9
    )

    def tell(_: str, done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        with Console(stderr=True).status(f"opening {wanted.source}"):
            from sw_audit.locate.locator import open_for_locating

            checkpoint = open_for_locating(wanted, depth=depth, digest=digest, progress=tell)
        return checkpoint.identity, locate_model(checkpoint, depth)


def describe(identity: ModelIdentity, location: Location) -> dict[str, Any]:
    """Put a location into the JSON object that other programs read."""
    found = location.model_dump(mode="json")
    weight_keys = ("parameter", "layer", "row", "column", "expert", "value", "share")
    return {
        "schema": 1,
        "model": {
            "source": identity.source,
            "family": identity.family,
            "layers": identity.layers,
            "digest": identity.digest or None,
            "revision": identity.revision,
            "dtype": identity.dtype,
        },
        "depth": found["depth"],
        "layers_seen": found["layers_seen"],
        "outcome": found["outcome"],
        "because": found["because"],
        "super_weights": [{key: weight[key] for key in weight_keys} for weight in found["super_weights"]],
        "weight_norm_prediction": found["weight_norm_prediction"],
        "super_activations": found["super_activations"],
        "candidates": found["candidates"],
        "prompt": {"text": found["prompt"], "token_ids": found["token_ids"], "bos": found["bos"]},
        "trace": found["trace"],
    }


def print_location(identity: ModelIdentity, location: Location) -> None:
    """Print a location for people."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sw_audit.cli.table import make_console

    console = make_console()

    def show(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if not rows:
            return
        table = Table(*head, box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)

    console.print(Text(f"{identity.source}: {location.outcome}", style="bold"), soft_wrap=True)
    console.print(Text(f"{identity.family}, {identity.layers} layers, {location.because}"), soft_wrap=True)
    if location.depth == "early":
        read = f"only the first {location.layers_seen} layers were read: what persists beyond them is not known"
        console.print(Text(read), soft_wrap=True)
    show(
        "super weights",
        ("parameter", "row", "column", "value", "share"),
        [
            (one.parameter, str(one.row), str(one.column), f"{one.value:.6g}", f"{one.share:.4f}")
            for one in location.super_weights
        ],
    )
    if location.weight_norm_prediction is not None:
        console.print(Text(f"second opinion: {location.weight_norm_prediction.because}"), soft_wrap=True)
        show(
            "the weights alone, without a forward pass",
            ("parameter", "row", "row's rank", "over median", "column", "its rank", "share", "agrees"),
            [
                (
                    one.parameter,
                    str(one.row),
                    f"{one.row_rank} of {one.rows}",
                    "-" if one.row_ratio is None else f"{one.row_ratio:.3g}",
                    str(one.column),
                    f"{one.column_rank} of {one.columns}",
                    "-" if one.share is None else f"{one.share:.3f}",
                    "yes" if one.agrees else "no",
                )
                for one in location.weight_norm_prediction.weights
            ],
        )
    show(
        "super activations",
        ("channel", "token", "value", "layers"),
        [
            (str(one.channel), str(one.token), f"{one.value:.6g}", f"{one.first_layer} to {one.last_layer}")
            for one in location.super_activations
        ],
    )
    show(
        "looked at and turned down",
        ("layer", "row", "column", "output", "share", "because"),
        [
            (
                str(one.layer),
                str(one.row),
                str(one.column),
                f"{one.output_value:.4g}",
                f"{one.share:.3f}",
                one.because,
            )
            for one in location.candidates
            if not one.accepted
        ],
    )
    sys.stdout.flush()
