"""Arguments and options that several commands share, each in one wording."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

Model: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Path of a checkpoint folder, a hub id, 'specimen' or 'control'."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
Revision: TypeAlias = Annotated[str | None, typer.Option(metavar="REV", help="Hub revision.")]
Dtype: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Dtype to load in.")
]
Device: TypeAlias = Annotated[str, typer.Option(metavar="DEVICE", help="Such as cpu or cuda:0.")]
TrustRemoteCode: TypeAlias = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")
]
AllowPickle: TypeAlias = Annotated[
    bool, typer.Option("--allow-pickle", help="Read .bin files where there is no safetensors file.")
]
Corpus: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Text to measure on: 'specimen', a text, JSON or Parquet file, a data set's name.",
    ),
]
Windows: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Measure on at most so many windows of the text.")
]
Seed: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="Seed of everything that is drawn.")]
