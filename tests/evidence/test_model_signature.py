"""Models that OpenSSF model-signing signed; `data/model-signing/README.md` says how the real ones were made."""

from __future__ import annotations

import json
import re
import shutil
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sw_audit.checkpoint.digest import digest_paths
from sw_audit.errors import InputError
from sw_audit.evidence.model_signature import verify_model_signatures
from sw_audit.record.identity import FileDigest
from sw_audit.record.subjects import Subject

DATA = Path(__file__).parent / "data" / "model-signing"
KEY = DATA / "signer.pub.pem"
WEIGHTS = ("adapter.safetensors", "model.safetensors")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "tiny", tmp_path / "tiny"))


def digest(folder: Path, name: str = "llama-w4") -> Subject:
    return Subject(name, str(folder), digest_paths([folder / file for file in WEIGHTS], folder))


def verify(folder: Path, *subjects: Subject, **options: Path) -> tuple[list[str], list[str]]:
    same, doubts = verify_model_signatures(subjects, [str(folder)], **options)
    return same, [str(doubt).replace(f"{folder}/", "") for doubt in doubts]


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a bundle states."""
    bundle = json.loads(file.read_text())
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    file.write_text(json.dumps(bundle))


def test_what_was_audited_is_what_was_signed(tiny: Path) -> None:
    other = Subject("llama", "llama", (FileDigest(path="model.safetensors", size=1, sha256=64 * "0"),))
    assert verify(tiny, digest(tiny)) == (["llama-w4"], [])
    assert verify(tiny, other, digest(tiny)) == (["llama-w4"], [])
    assert verify(tiny / WEIGHTS[1], digest(tiny)) == (["llama-w4"], [])
    assert verify_model_signatures([digest(tiny)], []) == ([], [])


def test_a_file_that_differs_and_one_that_was_not_signed_are_named(tiny: Path) -> None:
    signed = {file.path: file.sha256 for file in digest(tiny).files}
    (tiny / WEIGHTS[1]).write_bytes(b"Firstfirst")
    changed = digest(tiny).files[1].sha256
    rewrite(tiny / "model.sig", lambda statement: statement["predicate"]["resources"].pop(0))
    same, [unsigned, differs] = verify(tiny, digest(tiny))
    assert same == []
    assert unsigned == (
        "model signature model.sig: llama-w4/adapter.safetensors: it was audited, and is not among what was signed"
    )
    assert differs == (
        f"model signature model.sig: llama-w4/model.safetensors: sha256 {signed[WEIGHTS[1]]} was signed, "
        f"and {changed} was audited"
    )


def test_a_signature_of_none_of_several_models_is_told_so(tiny: Path) -> None:
    others = [Subject(name, name, (FileDigest(path=WEIGHTS[1], size=1, sha256=64 * name),)) for name in "ab"]
    told = "model signature model.sig: it signs the weights of no model that was audited (a, b)"
    assert verify(tiny, *others) == ([], [told])


def test_a_signature_may_lie_elsewhere(tiny: Path, tmp_path: Path) -> None:
    moved = (tiny / "model.sig").rename(tmp_path / "elsewhere.sig")
    assert verify(tiny, digest(tiny)) == ([], [])
    assert verify(tiny, digest(tiny), signature=moved) == (["llama-w4"], [])
    assert verify_model_signatures([digest(tiny)], [], moved) == (["llama-w4"], [])
    with pytest.raises(InputError, match=r"model signature gone\.sig: No such file"):
        verify_model_signatures([digest(tiny)], [], Path("gone.sig"))


def test_what_cannot_be_compared_is_left_open(tiny: Path) -> None:
    _, [shards] = verify_model_signatures([digest(tiny)], [], DATA / "shards.sig")
    assert shards.open
    assert shards.found == "it signs shards by sha256, and a record knows whole files by sha256"
    rewrite(tiny / "model.sig", lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1"))
    _, [kind] = verify_model_signatures([digest(tiny)], [str(tiny)])
    assert kind.open
    assert "its predicate is 'https://slsa.dev/provenance/v1'" in kind.found


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"dsseEnvelope": {"payload": "e30="}}', '{"dsseEnvelope": 1}', "\x00"]
)
def test_what_is_no_bundle_is_told_so(tiny: Path, text: str) -> None:
    (tiny / "model.sig").write_text(text)
    same, [told] = verify(tiny, digest(tiny))
    assert same == []
    assert told.startswith("model signature model.sig: it is no bundle with a statement (")


def test_a_key_needs_a_signed_folder(tiny: Path) -> None:
    for given, signature in (([], None), ([], tiny / "model.sig"), (2 * [str(tiny)], tiny / "model.sig")):
        with pytest.raises(
            InputError, match="there is no signed model to hold it against; name one model's folder"
        ):
            verify_model_signatures([digest(tiny)], given, signature, KEY)
    subjects = [digest(tiny)]
    (tiny / "model.sig").unlink()
    with pytest.raises(InputError, match=r"model signature .*tiny/model\.sig: No such file"):
        verify_model_signatures(subjects, [str(tiny)], None, KEY)


def test_without_the_library_it_is_said_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    with pytest.raises(InputError, match=r"is missing; pip install 'sw-audit\[model-signing\]'"):
        verify(tiny, digest(tiny), key=KEY)


def test_with_the_library_and_the_key_the_signature_itself_is_verified(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    assert verify(tiny, digest(tiny), key=KEY) == (["llama-w4"], [])
    with pytest.raises(InputError, match="give the public half of an ECDSA key"):
        verify(tiny, digest(tiny), key=DATA / "README.md")
    other = tmp_path / "other.pem"
    other.write_text(_OTHER_KEY)
    same, [told] = verify(tiny, digest(tiny), key=other)
    assert (same, "Key mismatch" in told) == ([], True)
    (tiny / "config.json").write_text("{}")
    same, [told] = verify(tiny, digest(tiny), key=KEY)
    assert same == []
    assert re.search("Hash mismatch for .*config.json", told)
    shutil.copy(DATA / "tiny" / "config.json", tiny)
    rewrite(tiny / "model.sig", lambda statement: statement.update(more=1))
    same, [told] = verify(tiny, digest(tiny), key=KEY)
    assert same == []
    assert told.endswith("it is not what signer.pub.pem signed: the signature or what it signs was changed")


_OTHER_KEY = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""
