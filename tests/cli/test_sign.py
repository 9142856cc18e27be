"""`sw-audit sign`, and what `sw-audit verify` says of signatures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from support.evidence import change_model, make_true_record
from support.program import Program

from sw_audit.checkpoint.digest import digest_paths
from sw_audit.record.store import encode_record

RECORD = make_true_record()
SIGNED = Path(__file__).parents[1] / "evidence" / "data" / "model-signing" / "tiny"


@pytest.fixture
def record(program: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program in a folder with a record and a key pair, whose passphrase stands in the environment."""
    private = Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(b"open sesame")
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (program.folder / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    (program.folder / "key.pub.pem").write_bytes(public)
    (program.folder / "record.json").write_text(encode_record(RECORD))
    monkeypatch.setenv("WORD", "open sesame")
    return program


SIGN = ("sign", "record.json", "--key", "key.pem", "--passphrase-env", "WORD")
VERIFY = ("verify", "record.json", "--key", "key.pub.pem")


def list_changed(program: Program, *arguments: object) -> list[str]:
    """Return what `verify` says was changed, but for the text, which is made up."""
    ending = program.run("verify", "record.json", *arguments, "--json")
    changed = [one["where"] for one in json.loads(ending.out)["changed"] if one["where"] != "text specimen"]
    assert ending.code == 1
    return changed


def test_a_signed_record_verifies_with_the_public_key_and_nothing_else(record: Program) -> None:
    ending = record.run(*SIGN)
    assert (ending.code, ending.out) == (0, "wrote record.json.dsse.json\n")
    (record.folder / "key.pem").unlink()
    assert list_changed(record, "--key", "key.pub.pem") == []
    assert "signed by " in record.run(*VERIFY).out
    assert "not looked at  signature record.json.dsse.json: give --key" in record.run("verify", "record.json").out


def test_a_changed_signature_and_a_changed_record_end_with_1(record: Program) -> None:
    record.run(*SIGN, "-o", "here.json")
    file = record.folder / "here.json"
    assert list_changed(record, "--key", "key.pub.pem", "--signature", "here.json") == []
    text = file.read_text()
    place = text.index('"sig":"') + 20
    file.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    assert list_changed(record, "--key", "key.pub.pem", "--signature", "here.json") == ["signature here.json"]
    file.write_text(text)
    other = RECORD.model_copy(update={"created": "2026-01-02T03:04:06+00:00"})
    (record.folder / "record.json").write_text(encode_record(other))
    # Its digest was made anew, so that the record by itself is whole.
    assert list_changed(record) == []
    found = list_changed(record, "--key", "key.pub.pem", "--signature", "here.json")
    assert found == ["statement.predicate.configuration[record]"]


def test_a_record_that_does_not_verify_is_signed_only_when_that_is_said(record: Program) -> None:
    file = record.folder / "record.json"
    file.write_text(file.read_text().replace('"status": "fail"', '"status": "pass"', 1))
    refused = record.run(*SIGN)
    assert (refused.code, len(refused.complaints)) == (2, 1)
    assert "it does not verify: models[a].verdicts[" in refused.err
    assert not (record.folder / "record.json.dsse.json").exists()
    assert record.run(*SIGN, "--unverified").code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sign", "record.json"), "nothing says who signs; give either --key KEY.pem or --keyless"),
        ((*SIGN, "--keyless"), "two ways to sign are named"),
        ((*SIGN[:4], "--passphrase-env", "NONE"), "--passphrase-env NONE: there is no such environment variable"),
        (SIGN[:4], "key key.pem: it is encrypted"),
        (VERIFY, "signature record.json.dsse.json: No such file or directory"),
        ((*VERIFY, "--identity", "a"), "it must be said who signed it; give --key, or --identity and --issuer"),
        (("verify", "record.json", "--issuer", "a"), "it must be said who signed it"),
        (("verify", "record.json", "--signature", "a"), "signature a: it must be said who signed it"),
        (("verify", "record.json", "--model-key", "a"), "there is no signed model to hold it against"),
    ],
)
def test_what_is_missing_or_too_much_is_said_in_a_line(
    record: Program, arguments: tuple[str, ...], told: str
) -> None:
    ending = record.run(*arguments)
    assert (ending.code, len(ending.complaints)) == (2, 1)
    assert told in ending.err


def test_a_signed_model_is_recognized(record: Program) -> None:
    folder = Path(shutil.copytree(SIGNED, record.folder / "a"))
    files = digest_paths([folder / "adapter.safetensors", folder / "model.safetensors"], folder)
    model = RECORD.results[0].model.model_copy(update={"files": files})
    (record.folder / "record.json").write_text(encode_record(change_model(RECORD, "a", model=model)))
    told = record.run("verify", "record.json", "a").out
    assert "as signed  weights a\n" in told
    assert "not looked at  who signed the weights a: give --model-key\n" in told
    (folder / "model.sig").write_text("{}")
    assert list_changed(record, "a") == ["model signature a/model.sig"]
