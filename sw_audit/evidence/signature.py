"""A record's statement signed with a key, in a DSSE envelope; and whether such a signature holds.

Envelope and signature are those of securesystemslib and cryptography: https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw_audit.errors import InputError
from sw_audit.record.digest import write_canonical
from sw_audit.record.store import Doubt

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SUFFIX = ".dsse.json"
"""What is appended to the name of a record's file for that of its signature."""

_KINDS = "an ECDSA P-256 or Ed25519 key in PEM"
_LARGEST = 1 << 26
"""Bytes of the largest file that is read: some hundred thousand signed files of a model."""
_UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What libraries raise over a document that is not what it should be."""


@contextmanager
def requiring(asked: str, extra: str) -> Iterator[None]:
    """Say in a line what to install where a package is missing.

    Raises:
        InputError: If it is.
    """
    try:
        yield
    except ImportError as error:
        found = f"the package {error.name} is missing"
        raise InputError(asked, found, f"pip install 'sw-audit[{extra}]'") from error


def sign_statement(statement: Mapping[str, Any], key: Path, passphrase: str | None = None) -> str:
    """Sign the statement of a record.

    Args:
        statement: What follows from the record (`sw_audit.record.statement`).
        key: File of the private key, ECDSA P-256 or Ed25519, in PEM.
        passphrase: Of an encrypted key.

    Returns:
        A DSSE envelope, JSON on one line.

    Raises:
        InputError: If a package is missing, or the key cannot be read or is of another kind.
    """
    asked = f"key {key}"
    with requiring(asked, "sign"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner
    try:
        password = None if passphrase is None else passphrase.encode()
        private = load_pem_private_key(read_file(key, asked), password)
    except TypeError as error:
        found, remedy = (
            ("it is encrypted", "name the environment variable of its passphrase: --passphrase-env NAME")
            if passphrase is None
            else ("it is not encrypted", "leave out --passphrase-env")
        )
        raise InputError(asked, found, remedy) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        other = "" if passphrase is None else ", or the passphrase is another"
        raise InputError(asked, f"it is no private key in PEM{other}", f"give {_KINDS}") from error
    envelope = Envelope(write_canonical(statement).encode(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private, _accept(private.public_key(), asked)))
    return write_canonical(envelope.to_dict()) + "\n"


def verify_signature(statement: Mapping[str, Any], signature: Path, key: Path) -> tuple[list[str], list[Doubt]]:
    """Hold a signature against what follows from a record and a public key; nothing else is needed.

    Args:
        statement: What follows from the record.
        signature: File of a DSSE envelope.
        key: File of the public key, in PEM.

    Returns:
        The key's id where everything holds, and what does not.

    Raises:
        InputError: If a package or a file is missing, or the key cannot be read or is of another kind.
    """
    public = _read_public(key)
    from securesystemslib.dsse import Envelope

    place, text = f"signature {signature.name}", read_file(signature, f"signature {signature}")
    try:
        # Twice, for the library writes into what it reads.
        envelope, document = Envelope.from_dict(json.loads(text)), json.loads(text)
    except _UNREADABLE as error:
        return [], [Doubt(place, f"it is no DSSE envelope ({type(error).__name__}: {error})")]
    doubts = list(_verify_envelope(envelope, public, key, place))
    if document != envelope.to_dict():
        doubts.append(Doubt(place, "it holds something else than an envelope, or in another form"))
    doubts += compare_statement(statement, envelope.payload)
    return [] if doubts else [public.keyid], doubts


def _verify_envelope(envelope: Envelope, public: SSlibKey, key: Path, place: str) -> Iterator[Doubt]:
    from securesystemslib.exceptions import VerificationError

    if public.keyid not in envelope.signatures:
        others = ", ".join(str(one)[:12] for one in envelope.signatures) or "none"
        yield Doubt(place, f"it names another key ({others}) than {key.name} ({public.keyid[:12]})")
    else:
        try:
            envelope.verify([public], 1)
        except (VerificationError, *_UNREADABLE):
            yield Doubt(place, f"it is not what {key.name} signed: its signature or its payload was changed")
    if envelope.payload_type != PAYLOAD_TYPE:
        yield Doubt(place, f"its payload's type is {envelope.payload_type!r}, and not {PAYLOAD_TYPE!r}")


def compare_statement(statement: Mapping[str, Any], payload: bytes) -> list[Doubt]:
    """Name everything in which a signed statement is not the one that follows from a record."""
    try:
        found = json.loads(payload)
        signed, same = _flatten(found), write_canonical(found) == write_canonical(statement)
    except _UNREADABLE as error:
        return [Doubt("statement", f"what was signed is no statement ({type(error).__name__}: {error})")]
    follows = _flatten(statement)
    places = dict.fromkeys([*follows, *signed])
    wrong = [f"statement.{place}" for place in places if signed.get(place) != follows.get(place)]
    wrong = wrong or ([] if same else ["statement"])
    return [Doubt(place, "what was signed is not what follows from the record") for place in wrong]


def _flatten(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return the parts of a statement as canonical JSON, by where they stand; digests by what they are of."""
    predicate = statement["predicate"]
    parts = {key: value for key, value in statement.items() if key != "predicate"}
    parts |= {f"predicate.{key}": value for key, value in predicate.items() if key != "configuration"}
    for one in predicate["configuration"]:
        parts.setdefault(f"predicate.configuration[{one['name']}]", []).append(one)
    return {place: write_canonical(value) for place, value in parts.items()}


def _read_public(key: Path) -> SSlibKey:
    asked = f"key {key}"
    with requiring(asked, "sign"):
        import securesystemslib.signer  # noqa: F401 - whether it is there
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    try:
        public = load_pem_public_key(read_file(key, asked))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(asked, "it is no public key in PEM", f"give the public half of {_KINDS}") from error
    return _accept(public, asked)


def _accept(public: Any, asked: str) -> SSlibKey:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey

    curve = public.curve if isinstance(public, EllipticCurvePublicKey) else None
    if not isinstance(public, Ed25519PublicKey) and not isinstance(curve, SECP256R1):
        kind = type(public).__name__.removesuffix("PublicKey") if curve is None else f"of the curve {curve.name}"
        raise InputError(asked, f"it is {kind}", f"give {_KINDS}")
    return SSlibKey.from_crypto(public)


def read_file(path: Path, asked: str) -> bytes:
    """Read a file whole; it may be somebody else's.

    Raises:
        InputError: If it cannot be read, or is larger than a key or a signature can be.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(asked, f"it has more than {_LARGEST:,} bytes", "give a key or a signature")
        return path.read_bytes()
    except OSError as error:
        raise InputError(asked, error.strerror or str(error), "give a file that can be read") from error


def append_suffix(file: Path, suffix: str) -> Path:
    """Return where the signature of a record's file lies, by default."""
    return file.with_name(file.name + suffix)
