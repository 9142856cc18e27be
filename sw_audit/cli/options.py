"""Arguments and options that several commands share, each in one wording."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import typer

from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.runner.options import OPTIONS
from sw_audit.specimen.shipped import find_shipped

Model: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Path of a checkpoint folder, a hub id, 'specimen' or 'control'."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
Revision: TypeAlias = Annotated[str | None, typer.Option(metavar="REV", help="Hub revision.")]
DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Dtype: TypeAlias = Annotated[DtypeName, typer.Option(help="Dtype to load in.")]
Device: TypeAlias = Annotated[str, typer.Option(metavar="DEVICE", help="Such as cpu or cuda:0.")]
TrustRemoteCode: TypeAlias = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")
]
AllowPickle: TypeAlias = Annotated[
    bool, typer.Option("--allow-pickle", help="Read .bin files where there is no safetensors file.")
]


def ask_model(
    source: str, revision: str | None, dtype: DtypeName, device: str, trust_remote_code: bool, allow_pickle: bool
) -> ModelPolicy:
    """Return the model that the options of a command ask for."""
    return ModelPolicy(
        source=find_shipped(source),
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )


def describe(name: str, *names: str) -> Any:
    """Return an option of an audit in the words of the one table of them."""
    option = OPTIONS[name]
    return typer.Option(*names, metavar=option.metavar, help=option.meaning)


Corpus: TypeAlias = Annotated[str | None, describe("corpus")]
Windows: TypeAlias = Annotated[int | None, describe("windows")]
Seed: TypeAlias = Annotated[int | None, describe("seed")]
OptionalDevice: TypeAlias = Annotated[str | None, describe("device")]
Expect: TypeAlias = Annotated[Literal["some", "none", "any"] | None, describe("expect")]
Inconclusive: TypeAlias = Annotated[Literal["fail", "warn"] | None, describe("inconclusive")]
