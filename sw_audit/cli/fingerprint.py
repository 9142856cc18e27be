"""`sw-audit fingerprint`: where a model's super weights are, and whose descendant it looks like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column

from sw_audit.cli.locate import locate_quietly
from sw_audit.cli.options import AsJson, AskModel
from sw_audit.cli.printing import Output, make_table, print_json
from sw_audit.errors import InputError
from sw_audit.index.lookup import open_index
from sw_audit.index.reading import read_index
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.fingerprint import Fingerprint, Kinship, rank_kin
from sw_audit.record.store import list_baselines, open_baseline

NOBODY = 3
_RECORDS = (".json", ".html", ".htm")
_CAUTION = (
    "evidence, not proof: coordinates survive fine-tuning and quantizing, but can be copied or removed, and "
    "models that were never related may share some by chance"
)


def fingerprint(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A checkpoint folder or file, a hub id, 'specimen', 'control', or a record."
        ),
    ],
    *,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OTHER",
            help="Compare with this: a model, a record, the name of a baseline, or an index file (.toml). Can be "
            "given several times. By default the published index and the baselines that are kept here.",
        ),
    ] = None,
    as_json: AsJson = False,
    ask: AskModel,
) -> None:
    """Take the short fingerprint of a model's lineage, and say whose descendant it looks like.

    The fingerprint is where the super weights are, their values and ratios, from one forward pass without data.

    Exit codes: 0 it looks like a descendant of something, 2 input error, 3 of nothing that it was compared with.

    For example:

      sw-audit fingerprint ./out/llama-w4

      sw-audit fingerprint ./unknown --against ./llama --against ./mistral
    """
    mine = next(_take_record(model)) if _is_record(model) else _take_model(ask(model))
    others = [known for other in against or () for known in _take(other, ask)]
    ranked = rank_kin(mine, others if against else _take_known())
    alike = tuple(kin for kin in ranked if kin.kin != "none")
    shown = ranked if against else alike
    if as_json:
        document = {"schema": 1, "fingerprint": mine.model_dump(mode="json"), "code": str(mine)}
        kinship = {"kinship": [kin.model_dump(mode="json") for kin in shown], "caution": _CAUTION}
        print_json({**document, **kinship})
    else:
        print_kinship(mine, shown)
    raise typer.Exit(0 if alike else NOBODY)


def print_kinship(mine: Fingerprint, ranked: tuple[Kinship, ...]) -> None:
    """Print a fingerprint and whom it resembles."""
    output = Output()
    output.print_lines(f"{mine.name}: {mine}", style="bold")
    for weight in mine.weights:
        first = weight.ratio is None or weight is mine.weights[0]
        ratio = "" if first else f", {weight.ratio:.4g} times the first"
        stands = "" if weight.outlier is None else f", in a row {weight.outlier:.4g} times the median row"
        output.print_lines(f"  super weight layer {weight}{ratio}{stands}")
    for loud in mine.activations:
        gain = "" if loud.gain is None else f", {loud.gain:.4g} times its weight"
        output.print_lines(f"  super activation channel {loud.channel} = {loud.value:.6g}{gain}")
    if not mine.weights:
        output.print_lines("  no super weight was located, so there is nothing to compare")
    if ranked:
        head = [Column(title, overflow="fold") for title in ("model", "likeness", "because")]
        output.print(make_table(head, [(kin.other, kin.kin, kin.because) for kin in ranked]))
    best = ranked[0] if ranked else None
    if best is None or best.kin == "none":
        ending = "it looks like a descendant of nothing that it was compared with"
    else:
        sure = best.kin in ("same", "close")
        ending = f"it {'looks like' if sure else 'may be'} {best.other}, or a descendant of it"
    output.print_lines(f"{ending} ({_CAUTION})")


def _take_model(model: ModelPolicy) -> Fingerprint:
    identity, location = locate_quietly(model, "full", digest=False)
    return Fingerprint.of_model(identity, location)


def _take(other: str, ask: AskModel) -> Iterator[Fingerprint]:
    """Take what is to be compared with: an index file, a record, a baseline, or else a model."""
    if other.endswith(".toml"):
        yield from (Fingerprint.of_entry(entry) for entry in read_index(Path(other)).models)
    elif _is_record(other):
        yield from _take_record(other)
    else:
        yield _take_model(ask(other))


def _take_known() -> Iterator[Fingerprint]:
    """Take the published index, and every baseline that is kept here."""
    yield from (Fingerprint.of_entry(entry) for entry in open_index().models)
    for name in list_baselines():
        yield from _take_record(name)


def _is_record(word: str) -> bool:
    """Whether a word is a record's file, or names a baseline and no model."""
    if word in ("specimen", "control") or Path(word).is_dir():
        return False
    return Path(word).suffix.lower() in _RECORDS or word in list_baselines()


def _take_record(named: str) -> Iterator[Fingerprint]:
    record = open_baseline(named, unverified=True)
    if not record.results:
        raise InputError(f"record {named}", "it holds no model", "name one of a run that located something")
    for result in record.results:
        yield Fingerprint.of_model(result.model, result.location, f"{result.id} ({named})")
