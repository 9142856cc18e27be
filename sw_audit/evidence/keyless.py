"""A record's statement signed by an identity instead of a key, through Sigstore (https://docs.sigstore.dev).

Signing needs a connection: to who vouches for the identity, to the authority that certifies it, and to the public
log in which every signature is kept, identity included.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sw_audit.errors import InputError
from sw_audit.evidence.signature import PAYLOAD_TYPE, compare_statement, read_file, requiring
from sw_audit.record.digest import write_canonical
from sw_audit.record.store import Doubt

SUFFIX = ".sigstore.json"
"""What is appended to the name of a record's file for that of its bundle."""


def sign_keyless(statement: Mapping[str, Any]) -> str:
    """Sign the statement of a record as whoever one is: in CI the job, at a terminal who logs in.

    Returns:
        A Sigstore bundle, JSON.

    Raises:
        InputError: If a package, an identity or the connection is missing.
    """
    asked = "--keyless"
    with requiring(asked, "sigstore"):
        from sigstore.dsse import Statement
        from sigstore.models import ClientTrustConfig
        from sigstore.oidc import IdentityToken, Issuer, detect_credential
        from sigstore.sign import SigningContext
    try:
        trust = ClientTrustConfig.production()
        found = detect_credential()
        if found is None and not sys.stdin.isatty():
            remedy = "give a job of CI its identity (GitHub: `id-token: write`), sign at a terminal, or use --key"
            raise InputError(asked, "there is no identity to sign as", remedy)
        token = IdentityToken(found) if found else Issuer(trust.signing_config.get_oidc_url()).identity_token()
        with SigningContext.from_trust_config(trust).signer(token) as signer:
            return str(signer.sign_dsse(Statement(write_canonical(statement).encode())).to_json())
    except InputError:
        raise
    except Exception as error:  # what its clients raise has no class in common
        remedy = "signing without a key needs a connection to sigstore.dev; sign with --key where there is none"
        raise InputError(asked, f"{type(error).__name__}: {error}", remedy) from error


def verify_keyless(
    statement: Mapping[str, Any], bundle: Path, identity: str, issuer: str
) -> tuple[list[str], list[Doubt]]:
    """Hold a Sigstore bundle against what follows from a record, and against who is to have signed it.

    What Sigstore is trusted by is fetched anew where there is a connection, else that is taken which the package
    brings along or has kept.

    Args:
        statement: What follows from the record.
        bundle: File of the bundle.
        identity: Whose it is to be: an e-mail address, or the URL of a workflow.
        issuer: Who vouches for that, such as `https://token.actions.githubusercontent.com`.

    Returns:
        The identity where everything holds, and what does not.

    Raises:
        InputError: If a package or the file is missing.
    """
    with requiring("--identity", "sigstore"):
        from sigstore.errors import Error, VerificationError
        from sigstore.models import Bundle, InvalidBundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    place, text = f"signature {bundle.name}", read_file(bundle, f"signature {bundle}")
    try:
        verifier = Verifier.production()
    except (Error, OSError):
        verifier = Verifier.production(offline=True)
    try:
        kind, payload = verifier.verify_dsse(Bundle.from_json(text), Identity(identity=identity, issuer=issuer))
    except (InvalidBundle, VerificationError, ValueError) as error:
        return [], [Doubt(place, f"it does not verify ({' '.join(str(error).split())})")]
    doubts = compare_statement(statement, payload)
    if kind != PAYLOAD_TYPE:
        doubts.append(Doubt(place, f"its payload's type is {kind!r}, and not {PAYLOAD_TYPE!r}"))
    return [] if doubts else [identity], doubts
