"""Signing through Sigstore, as far as it goes without a connection."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.evidence import make_true_record

from sw_audit.errors import InputError
from sw_audit.evidence.keyless import sign_keyless, verify_keyless
from sw_audit.record.statement import make_statement

STATEMENT = make_statement(make_true_record())


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let Sigstore keep what it trusts in a folder of the test's own."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sigstore", "sigstore.dsse", "sigstore.errors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"is missing; pip install 'sw-audit\[sigstore\]'"):
        sign_keyless(STATEMENT)
    with pytest.raises(InputError, match=r"is missing; pip install 'sw-audit\[sigstore\]'"):
        verify_keyless(STATEMENT, Path("gone"), "a@b.test", "https://b.test")


BUNDLE = Path(__file__).parent / "data" / "sigstore" / "staging.sigstore.json"
ISSUER = "https://token.actions.githubusercontent.com"
SIGNER = (
    "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/"
    "extremely-dangerous-oidc-beacon.yml@refs/heads/main"
)


def test_with_the_library_a_real_bundle_is_verified_and_what_does_not_hold_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    verify = pytest.importorskip("sigstore.verify")
    staging = verify.Verifier.staging
    monkeypatch.setattr(verify.Verifier, "production", lambda **_: staging(offline=True))

    def tell(identity: str = SIGNER, issuer: str = ISSUER, file: Path = BUNDLE) -> str:
        signers, [doubt] = verify_keyless(STATEMENT, file, identity, issuer)
        assert signers == []
        return str(doubt)

    # Identity and signature hold, and what was signed is somebody else's.
    assert tell().startswith("statement: what was signed is no statement (KeyError")
    assert "staging.sigstore.json: it does not verify (Certificate's SANs do not match" in tell("a@b.test")
    assert "it does not verify (Certificate's OIDCIssuer does not match" in tell(issuer="https://b.test")
    changed = tmp_path / "changed.json"
    changed.write_text(
        BUNDLE.read_text().replace('"payload":"ey', '"payload":"ez').replace('"payload": "ey', '"payload": "ez')
    )
    assert "signature changed.json: it does not verify (DSSE: invalid signature)" in tell(file=changed)
    changed.write_text("{}")
    assert "signature changed.json: it does not verify (failed to load bundle" in tell(file=changed)


def test_with_the_library_and_without_a_connection_it_is_said_that_one_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = pytest.importorskip("sigstore.models")
    errors = pytest.importorskip("sigstore.errors")

    def fail() -> None:
        raise errors.TUFError("Failed to refresh TUF metadata")

    monkeypatch.setattr(models.ClientTrustConfig, "production", fail)
    with pytest.raises(
        InputError, match="TUFError: Failed to refresh TUF metadata; signing without a key needs a conn"
    ):
        sign_keyless(STATEMENT)


def test_without_an_identity_nothing_is_asked_where_nobody_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("sigstore.models")
    oidc = pytest.importorskip("sigstore.oidc")
    production = models.ClientTrustConfig.production
    monkeypatch.setattr(models.ClientTrustConfig, "production", lambda: production(offline=True))
    monkeypatch.setattr(oidc, "detect_credential", lambda: None)
    with pytest.raises(InputError, match="there is no identity to sign as; give a job of CI its identity"):
        sign_keyless(STATEMENT)
