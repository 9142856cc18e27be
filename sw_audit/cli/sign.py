"""`sw-audit sign`: a record's statement, signed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.options import Unverified
from sw_audit.cli.printing import print_line
from sw_audit.errors import InputError
from sw_audit.evidence.keyless import SUFFIX as BUNDLE
from sw_audit.evidence.keyless import sign_keyless
from sw_audit.evidence.signature import SUFFIX as SIGNATURE
from sw_audit.evidence.signature import append_suffix, sign_statement
from sw_audit.evidence.verify import require_verified
from sw_audit.record.statement import make_statement
from sw_audit.record.store import find_baseline_file, open_stored_baseline, write_text


def sign(
    record: Annotated[
        str,
        typer.Argument(
            metavar="RECORD", help="A record.json, a report.html, a folder with one, or a baseline's name."
        ),
    ],
    key: Annotated[
        Path | None, typer.Option(metavar="KEY.pem", help="Private key to sign with: ECDSA P-256 or Ed25519.")
    ] = None,
    passphrase_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the passphrase of the key.")
    ] = None,
    keyless: Annotated[
        bool,
        typer.Option("--keyless", help="Sign as whoever one is, through Sigstore: who signs what is made public."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=f"File to write (default: RECORD{SIGNATURE} or RECORD{BUNDLE})."
        ),
    ] = None,
    unverified: Unverified = False,
) -> None:
    """Sign what a record attests: which weights passed which checks, under which policy, text and tool.

    What is signed is an in-toto statement of the test-result predicate in a DSSE envelope; `sw-audit verify` holds
    it against the record. A record that does not verify is not signed.

    For example:

      openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub.pem

      sw-audit sign sw-audit-out/record.json --key key.pem

      sw-audit verify sw-audit-out/record.json --key key.pub.pem
    """
    if (key is None) is not keyless:
        found = "two ways to sign are named" if keyless else "nothing says who signs"
        raise InputError(f"sign {record}", found, "give either --key KEY.pem or --keyless")
    stored = open_stored_baseline(record)
    statement = make_statement(require_verified(stored, record, unverified=unverified), stored.document)
    text = (
        sign_keyless(statement)
        if key is None
        else sign_statement(statement, key, _read_passphrase(passphrase_env))
    )
    path = output or append_suffix(find_baseline_file(record), BUNDLE if key is None else SIGNATURE)
    write_text(path, text)
    print_line(f"wrote {path}")


def _read_passphrase(name: str | None) -> str | None:
    if name is not None and name not in os.environ:
        raise InputError(
            f"--passphrase-env {name}", "there is no such environment variable", "set it, or name another"
        )
    return None if name is None else os.environ[name]
