"""`sw-audit verify`: whether a record is what was written, and what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from sw_audit.cli.options import AsJson
from sw_audit.cli.printing import Output, print_json
from sw_audit.cli.progress import show_progress
from sw_audit.errors import InputError, RecordError
from sw_audit.evidence.files import verify_texts, verify_weights
from sw_audit.evidence.keyless import SUFFIX as BUNDLE
from sw_audit.evidence.keyless import verify_keyless
from sw_audit.evidence.model_signature import verify_model_signatures
from sw_audit.evidence.signature import SUFFIX as SIGNATURE
from sw_audit.evidence.signature import append_suffix, verify_signature
from sw_audit.evidence.verify import verify_record
from sw_audit.record.statement import make_statement
from sw_audit.record.store import Doubt, StoredRecord, find_baseline_file, open_stored_baseline
from sw_audit.record.subjects import list_subjects

CHANGED, OPEN = 1, 3
_VERIFIED = {
    "texts": "as recorded  text",
    "weights": "as recorded  weights",
    "signers": "signed by",
    "signed_weights": "as signed  weights",
}


def verify(
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD", help="A record.json, a report.html, a folder with one, or a baseline's name."
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Weights to hold against the record's digests: folders or files of its models, parents and "
            "bases of adapters. ID=PATH says which it is.",
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="PUB.pem", help="Public key of who is to have signed the record.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who is to have signed it without a key, with --issuer.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Who vouches for the identity, such as a CI service.")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The signature, unless it lies beside the record.")
    ] = None,
    model_signature: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Signature of a model by model-signing, unless it lies with the model."),
    ] = None,
    model_key: Annotated[
        Path | None, typer.Option(metavar="PUB.pem", help="Public key of who is to have signed the model.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what does not verify.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether a record is what was written, and name every part of it that is not.

    The record's digest and form, and those of the page that carries it; the signature of every figure's protocol;
    every verdict, which is judged again from the measurements and the policy; the texts that are at hand; the
    weights that are named; with a key, who signed the record; and, of a model with a model.sig, whether what was
    audited is what was signed. Nothing is measured.

    Exit codes: 0 all of it verifies, 1 something was changed, 2 it cannot be read, 3 it cannot be told.

    For example:

      sw-audit verify sw-audit-out/record.json ./llama-w4 ./llama

      sw-audit verify sw-audit-out/record.json --key release.pub.pem
    """
    stored = _open(record)
    doubts = verify_record(stored, record)
    texts, differing = verify_texts(stored.record)
    subjects = list_subjects(stored.record)
    with show_progress("", quiet=quiet or as_json) as progress:
        weights, changed = verify_weights(subjects, models or [], progress)
    file = find_baseline_file(record)
    signers, forged = _verify_signature(
        make_statement(stored.record, stored.document), file, signature, key, identity, issuer
    )
    signed, unsigned = verify_model_signatures(subjects, models or [], model_signature, model_key)
    doubts += [*differing, *changed, *forged, *unsigned]
    verified = {"texts": texts, "weights": weights, "signers": signers, "signed_weights": signed}
    unseen = [subject.name for subject in subjects if subject.name not in weights] if not changed else []
    hints = [f"weights {', '.join(unseen)}: name their folders"] if unseen else []
    hints += [
        f"signature {place}: give {options}"
        for suffix, options in ((SIGNATURE, "--key"), (BUNDLE, "--identity and --issuer"))
        if not signers and not forged and (place := append_suffix(file, suffix)).is_file()
    ]
    if signed and model_key is None:
        hints.append(f"who signed the weights {', '.join(signed)}: give --model-key")
    if as_json:
        print_json(
            {
                "schema": 1,
                "record": record,
                "sha256": None if stored.digest is None else stored.digest.sha256,
                "changed": [_tell(doubt) for doubt in doubts if not doubt.open],
                "open": [_tell(doubt) for doubt in doubts if doubt.open],
                "verified": verified,
                "weights_not_given": unseen,
                "not_looked_at": hints,
            }
        )
    else:
        _print(doubts, verified, hints, len(stored.record.verdicts), quiet=quiet)
    raise typer.Exit(CHANGED if any(not one.open for one in doubts) else OPEN if doubts else 0)


def _verify_signature(
    statement: dict[str, Any],
    file: Path,
    signature: Path | None,
    key: Path | None,
    identity: str | None,
    issuer: str | None,
) -> tuple[list[str], list[Doubt]]:
    """Hold the record's signature against whoever is named; against nobody where none is."""
    if identity is not None and issuer is not None and key is None:
        return verify_keyless(statement, signature or append_suffix(file, BUNDLE), identity, issuer)
    if key is not None and identity is None and issuer is None:
        return verify_signature(statement, signature or append_suffix(file, SIGNATURE), key)
    if signature is not None or key is not None or identity is not None or issuer is not None:
        asked = f"signature {signature or file}"
        raise InputError(asked, "it must be said who signed it", "give --key, or --identity and --issuer")
    return [], []


def _open(named: str) -> StoredRecord:
    """Read a record; a file that is there and is none any more was changed."""
    try:
        return open_stored_baseline(named)
    except RecordError as error:
        if not find_baseline_file(named).is_file():
            raise
        typer.echo(f"sw-audit: {error}", err=True)
        raise typer.Exit(CHANGED) from None


def _tell(doubt: Doubt) -> dict[str, str]:
    return {"where": doubt.where, "found": doubt.found}


def _print(
    doubts: list[Doubt], verified: dict[str, list[str]], hints: list[str], verdicts: int, *, quiet: bool
) -> None:
    output = Output()
    for doubt in sorted(doubts, key=lambda doubt: doubt.open):
        output.print(Text(f"{'cannot be told' if doubt.open else 'CHANGED'}  {doubt}"))
    changed = sum(not doubt.open for doubt in doubts)
    if not quiet:
        for what, names in verified.items():
            for name in names:
                output.print(Text(f"{_VERIFIED[what]} {name}"))
        for hint in hints:
            output.print(Text(f"not looked at  {hint}"))
        if not changed:
            output.print(Text(f"{verdicts} verdicts follow from the measurements and the policy"))
    ending = f"CHANGED: {changed} of its parts" if changed else "CANNOT BE TOLD" if doubts else "VERIFIED"
    if not quiet or doubts:
        output.print(Text(ending, style="bold"))
