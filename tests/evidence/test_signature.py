"""Signatures of records: held against cryptography and openssl, by hand, and changed in every way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.evidence import make_true_record

from sw_audit.errors import InputError
from sw_audit.evidence.signature import append_suffix, sign_statement, verify_signature
from sw_audit.record.digest import write_canonical
from sw_audit.record.statement import make_statement

RECORD = make_true_record()
STATEMENT = make_statement(RECORD)
OTHER = make_statement(RECORD.model_copy(update={"created": "2026-01-02T03:04:06+00:00"}))
OPENSSL = shutil.which("openssl")
TYPE = "application/vnd.in-toto+json"
Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
MAKE: dict[str, Callable[[], Private]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}
KINDS = ("p256", "ed25519")


def write_keys(folder: Path, private: Private, passphrase: str | None = None) -> tuple[Path, Path]:
    """Write a key pair, and return the files of the private and of the public one."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    files = folder / "key.pem", folder / "key.pub.pem"
    files[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    files[1].write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return files


def encode(kind: str, payload: bytes) -> bytes:
    """Write what is signed, as the specification of DSSE has it: lengths in bytes, one space between."""
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload])


def sign_by_hand(private: Private, payload: bytes, kind: str = TYPE) -> bytes:
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(encode(kind, payload), ec.ECDSA(SHA256()))
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    return private.sign(encode(kind, payload))


class Signed:
    """A record that was signed, on a disk of its own."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.private = MAKE[kind]()
        self.key, self.public = write_keys(folder, self.private)
        self.file = folder / "record.json.dsse.json"
        self.text = sign_statement(STATEMENT, self.key)
        self.envelope: dict[str, Any] = json.loads(self.text)
        self.payload = b64decode(self.envelope["payload"], validate=True)
        self.signature = b64decode(self.envelope["signatures"][0]["sig"], validate=True)

    def verify(
        self, statement: dict[str, Any] = STATEMENT, *, text: str | None = None, key: Path | None = None
    ) -> list[str]:
        """Return what does not hold, of this or of a changed envelope."""
        self.file.write_text(self.text if text is None else text, encoding="utf-8", newline="")
        signers, doubts = verify_signature(statement, self.file, key or self.public)
        assert bool(signers) is not bool(doubts)
        assert not any(doubt.open for doubt in doubts)
        return [str(doubt) for doubt in doubts]

    def change(self, *, payload: bytes | None = None, signature: bytes | None = None, **changes: Any) -> str:
        """Return the envelope with a part changed."""
        envelope = {**json.loads(self.text), **changes}
        if payload is not None:
            envelope["payload"] = b64encode(payload).decode()
        if signature is not None:
            envelope["signatures"][0]["sig"] = b64encode(signature).decode()
        return json.dumps(envelope)


@pytest.fixture(scope="module", params=KINDS)
def signed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"), request.param)


def test_what_is_signed_is_the_statement_as_the_specification_encodes_it(signed: Signed) -> None:
    assert signed.envelope.keys() == {"payload", "payloadType", "signatures"}
    assert signed.envelope["payloadType"] == TYPE
    assert signed.payload.decode() == write_canonical(STATEMENT)
    public = signed.private.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signed.signature, encode(TYPE, signed.payload), ec.ECDSA(SHA256()))
    else:
        assert isinstance(public, ed25519.Ed25519PublicKey)
        public.verify(signed.signature, encode(TYPE, signed.payload))


@pytest.mark.skipif(OPENSSL is None, reason="there is no openssl")
def test_openssl_verifies_the_signature(signed: Signed, tmp_path: Path) -> None:
    data, signature = tmp_path / "data", tmp_path / "signature"
    data.write_bytes(encode(TYPE, signed.payload))
    signature.write_bytes(signed.signature)
    elliptic = isinstance(signed.private, ec.EllipticCurvePrivateKey)
    by_digest = ["dgst", "-sha256", "-verify", str(signed.public), "-signature", str(signature), str(data)]
    raw = ["pkeyutl", "-verify", "-pubin", "-inkey", str(signed.public), "-rawin", "-in", str(data)]
    command = [str(OPENSSL), *(by_digest if elliptic else [*raw, "-sigfile", str(signature)])]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    data.write_bytes(encode(TYPE, signed.payload + b" "))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_public_key_alone_verifies_it(signed: Signed, tmp_path: Path) -> None:
    moved = tmp_path / "moved.pem"
    shutil.copy(signed.public, moved)
    assert signed.verify(key=moved) == []
    assert signed.verify(text=signed.change(signature=sign_by_hand(signed.private, signed.payload))) == []


def test_a_changed_byte_of_signature_or_payload_is_named(signed: Signed) -> None:
    changed = (
        "signature record.json.dsse.json: it is not what key.pub.pem signed: its signature or its payload was"
    )
    last = signed.signature[:-1] + bytes([signed.signature[-1] ^ 1])
    assert signed.verify(text=signed.change(signature=last)) == [f"{changed} changed"]
    payload = signed.payload.replace(b"FAILED", b"PASSED")
    assert payload != signed.payload
    first, second = signed.verify(text=signed.change(payload=payload))
    assert first == f"{changed} changed"
    assert second == "statement.predicate.result: what was signed is not what follows from the record"


def test_another_key_and_another_record_are_named(signed: Signed, tmp_path: Path) -> None:
    for kind in KINDS:
        _, other = write_keys(tmp_path / kind, MAKE[kind]())
        [told] = signed.verify(key=other)
        assert told.startswith("signature record.json.dsse.json: it names another key (")
    [told] = signed.verify(OTHER)
    assert told.startswith("statement.predicate.configuration[record]: what was signed is not what follows")


def test_a_statement_that_the_key_signed_and_that_does_not_follow_is_named(signed: Signed) -> None:
    statement = json.loads(signed.payload)
    cases: list[tuple[str, Any]] = [
        ("subject", {**statement, "subject": statement["subject"] * 2}),
        ("_type", {**statement, "_type": "https://in-toto.io/Statement/v0.1"}),
        ("more", {**statement, "more": True}),
        ("predicate.url", {**statement, "predicate": {**statement["predicate"], "url": "https://a.test"}}),
        ("predicate.failedTests", {**statement, "predicate": {**statement["predicate"], "failedTests": []}}),
    ]
    for place, changed in cases:
        payload = json.dumps(changed).encode()
        text = signed.change(payload=payload, signature=sign_by_hand(signed.private, payload))
        assert signed.verify(text=text) == [
            f"statement.{place}: what was signed is not what follows from the record"
        ]
    payload = json.dumps({**statement, "predicate.result": "PASSED"}).encode()
    text = signed.change(payload=payload, signature=sign_by_hand(signed.private, payload))
    assert signed.verify(text=text) == ["statement: what was signed is not what follows from the record"]
    for payload in (b"[]", b"{", b'{"predicate": 1}', b"\xff", b"[" * 100_000):
        text = signed.change(payload=payload, signature=sign_by_hand(signed.private, payload))
        [told] = signed.verify(text=text)
        assert told.startswith("statement: what was signed is no statement (")


def test_type_key_id_form_and_extra_keys_are_held_to(signed: Signed) -> None:
    kind = "application/json"
    text = signed.change(payloadType=kind, signature=sign_by_hand(signed.private, signed.payload, kind))
    [told] = signed.verify(text=text)
    assert told.endswith(f"its payload's type is '{kind}', and not '{TYPE}'")
    [told] = signed.verify(text=signed.text.replace('"keyid":"', '"keyid":"0'))
    assert "it names another key (0" in told
    [told] = signed.verify(text=signed.change(signatures=[]))
    assert "it names another key (none)" in told
    [told] = signed.verify(text=signed.change(extra=1))
    assert told.endswith("it holds something else than an envelope, or in another form")
    [told] = signed.verify(text=signed.text.replace('"payload":"', '"payload":"!'))
    assert "it is no DSSE envelope (" in told


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_an_envelope_changes_unseen(signed: Signed, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(signed.text) - 2))  # the last one is the line's end
    other = data.draw(
        st.characters(min_codepoint=32, max_codepoint=126).filter(lambda one: one != signed.text[place])
    )
    assert signed.verify(text=signed.text[:place] + other + signed.text[place + 1 :])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"]), inner, max_size=5
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=_JSON)
def test_whatever_stands_in_its_place_is_no_signature(signed: Signed, document: Any) -> None:
    assert signed.verify(text=json.dumps(document))


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    for kind in KINDS:
        key, public = write_keys(tmp_path / kind, MAKE[kind](), "open sesame")
        file = tmp_path / "signature"
        file.write_text(sign_statement(STATEMENT, key, "open sesame"))
        assert verify_signature(STATEMENT, file, public)[1] == []
        with pytest.raises(InputError, match="it is encrypted; name the environment variable"):
            sign_statement(STATEMENT, key)
        with pytest.raises(InputError, match="or the passphrase is another"):
            sign_statement(STATEMENT, key, "wrong")
    plain, _ = write_keys(tmp_path / "plain", MAKE["p256"]())
    with pytest.raises(InputError, match="it is not encrypted; leave out --passphrase-env"):
        sign_statement(STATEMENT, plain, "open sesame")


@pytest.mark.parametrize(("kind", "found"), [("rsa", "it is RSA;"), ("p384", "it is of the curve secp384r1;")])
def test_a_key_of_another_kind_is_refused(tmp_path: Path, kind: str, found: str) -> None:
    key, public = write_keys(tmp_path, MAKE[kind]())
    with pytest.raises(InputError, match=found):
        sign_statement(STATEMENT, key)
    with pytest.raises(InputError, match=found):
        verify_signature(STATEMENT, tmp_path / "none", public)


def test_what_is_no_key_or_not_there_is_refused_in_a_line(signed: Signed, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is no private key in PEM; give"):
        sign_statement(STATEMENT, signed.public)
    with pytest.raises(InputError, match="it is no public key in PEM; give the public half"):
        verify_signature(STATEMENT, signed.file, signed.key)
    with pytest.raises(InputError, match="No such file"):
        sign_statement(STATEMENT, tmp_path / "gone.pem")
    with (tmp_path / "vast").open("wb") as vast:
        vast.truncate(10**12)
    with pytest.raises(InputError, match="it has more than 67,108,864 bytes"):
        verify_signature(STATEMENT, tmp_path / "vast", signed.public)
    with pytest.raises(InputError, match=r"signature .*gone.*: No such file"):
        verify_signature(STATEMENT, tmp_path / "gone", signed.public)


def test_without_the_library_it_is_said_what_to_install(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("securesystemslib.dsse", "securesystemslib.signer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"is missing; pip install 'sw-audit\[sign\]'"):
        sign_statement(STATEMENT, signed.key)
    with pytest.raises(InputError, match=r"is missing; pip install 'sw-audit\[sign\]'"):
        verify_signature(STATEMENT, signed.file, signed.public)


def test_a_signature_lies_beside_its_record() -> None:
    assert append_suffix(Path("out/record.json"), ".dsse.json") == Path("out/record.json.dsse.json")
