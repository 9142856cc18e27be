"""Options that commands share: each stands here once, and those of an audit come from the one table of them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from sw_audit.cli.groups import Group
from sw_audit.policy.model_policy import BosRule, Dtype, ModelPolicy
from sw_audit.runner.options import FORMATS, OPTIONS
from sw_audit.specimen.shipped import find_shipped

Model: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Path of a checkpoint folder or of a .gguf or .safetensors file, a hub id, 'specimen' or 'control'.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
Unverified: TypeAlias = Annotated[
    bool, typer.Option("--unverified", help="Take a record that does not verify: changed, or without a digest.")
]

_TYPES = {"list": list[str], "text": str, "number": int, "switch": bool}
# In the order of the help.
_AUDIT = (
    "policy", "check", "corpus", "windows", "dtype", "device", "bos", "engine", "url", "kv-cache", "expect",
    "effort", "strict", "inconclusive", "index", "parent", "compare", "unverified", "save", "seed", "budget",
    "memory", "cache-size", "cache-age", "no-redaction", *FORMATS, "summary",
)  # fmt: skip


def describe(name: str) -> Any:
    """Return an option of an audit in the words of the one table of them."""
    return typer.Option(metavar=OPTIONS[name].metavar, help=OPTIONS[name].meaning)


def _ask_model(
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Hub revision.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype to load in.")] = "auto",
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Such as cpu or cuda:0.")] = "cpu",
    bos: Annotated[
        BosRule, typer.Option(help="BOS before every text: as the model's own files have it, always, or never.")
    ] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin files where there is no safetensors file.")
    ] = False,
) -> Callable[[str], ModelPolicy]:
    def ask(source: str) -> ModelPolicy:
        return ModelPolicy(
            source=find_shipped(source),
            revision=revision,
            dtype=dtype,
            device=device,
            bos=bos,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )

    return ask


def _make_parameter(name: str) -> Parameter:
    option = OPTIONS[name]
    kind: Any = Path if option.path else _TYPES[option.kind]
    kind = Literal.__getitem__(option.choices) if option.choices else kind
    annotation = Annotated[kind | None, describe(name)]
    return Parameter(name.replace("-", "_"), Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _collect(**values: Any) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in values.items()}


_collect.__signature__ = signature(_collect).replace(parameters=[*map(_make_parameter, _AUDIT)])  # type: ignore[attr-defined]

AskModel: TypeAlias = Annotated[Callable[[str], ModelPolicy], Group(_ask_model)]
"""Makes a model out of what was named as one, opened as the options say."""

AuditOptions: TypeAlias = Annotated[dict[str, Any], Group(_collect)]
"""The options of an audit by name, as they were given."""
