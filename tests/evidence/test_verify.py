"""A record that was changed does not verify, and the change is named: with its digests, and with new ones too."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.evidence import make_true_record
from sw_audit_reports.html import render_html

from sw_audit.errors import RecordError
from sw_audit.evidence.verify import require_verified, verify_record
from sw_audit.record.digest import digest_document
from sw_audit.record.store import StoredRecord, decode_stored, encode_record, open_stored

RECORD = make_true_record()
TEXT = encode_record(RECORD)
PRUNED = next(place for place, one in enumerate(RECORD.results[0].measurements) if one.arm.name == "pruned")
VERDICT = next(place for place, one in enumerate(RECORD.verdicts) if one.check == "prune-collapses")


def name(stored: StoredRecord) -> list[str]:
    return [doubt.where for doubt in verify_record(stored, "it") if not doubt.open]


def forge(change: Callable[[Any], None], *, digest: bool = False) -> str:
    """Change a record; with its digests made anew, as somebody would who knows of them."""
    document = json.loads(TEXT)
    change(document)
    if digest:
        document["digest"] = digest_document(document).model_dump()
    return json.dumps(document)


def put(*place: str | int, value: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return change


def drop(*place: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return change


def raise_losses(document: Any) -> None:
    loss = document["models"][0]["measurements"][0]["loss"]
    loss["nats"] = [1.5 * value for value in loss["nats"]]


MODEL = ("models", 0)
FORGERIES = {
    "a verdict flipped": (put(*MODEL, "verdicts", VERDICT, "status", value="pass"), "verdicts[prune-collapses]"),
    "a verdict deleted": (drop(*MODEL, "verdicts", VERDICT), "verdicts[prune-collapses]"),
    "all verdicts deleted": (put(*MODEL, "verdicts", value=[]), "verdicts"),
    "a digest of weights zeroed": (put(*MODEL, "model", "digest", value=64 * "0"), "models[a].model"),
    "a limit changed": (
        put("policy", "checks", "prune-collapses", "minimum_ratio", value=1.01),
        "policy.checks",
    ),
    "a waiver that expired later": (put("policy", "waiver", 0, "until", value="2099-01-01"), "policy.waiver"),
    "losses of the baseline raised by half": (raise_losses, "measurements[baseline]"),
    "an interval widened": (put(*MODEL, "verdicts", VERDICT, "low", value=1.0), "verdicts[prune-collapses]"),
    "a figure changed": (put(*MODEL, "verdicts", VERDICT, "observed", value=99.0), "verdicts[prune-collapses]"),
    "the day": (put("created", value="2031-01-02T03:04:05+00:00"), "created"),
    "the program": (put("tool", "version", value="9.9"), "tool"),
    "the model's name": (put(*MODEL, "model", "id", value="b"), "models[a].model"),
    "the environment": (put("environment", "python", value="2.7"), "environment"),
}


def test_a_record_as_it_was_written_verifies() -> None:
    assert verify_record(decode_stored(TEXT), "it") == []
    assert require_verified(decode_stored(TEXT), "it", unverified=False) == RECORD


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_named(forgery: str) -> None:
    change, place = FORGERIES[forgery]
    stored = decode_stored(forge(change))
    assert any(place in where for where in name(stored)), name(stored)
    with pytest.raises(RecordError, match="it does not verify"):
        require_verified(stored, "it", unverified=False)
    assert require_verified(stored, "it", unverified=True) == stored.record


@pytest.mark.parametrize(
    "forgery",
    [
        "a verdict flipped",
        "a limit changed",
        "a waiver that expired later",
        "losses of the baseline raised by half",
        "an interval widened",
        "a figure changed",
    ],
)
def test_with_new_digests_too_a_verdict_has_to_follow(forgery: str) -> None:
    stored = decode_stored(encode_record(decode_stored(forge(FORGERIES[forgery][0], digest=True)).record))
    assert stored.list_doubts() == []
    assert any(where.startswith("models[a].verdicts[") for where in name(stored))


def test_figures_of_another_protocol_than_the_one_beside_them_are_named() -> None:
    change = put(*MODEL, "protocol", "seed", value=7)
    stored = decode_stored(encode_record(decode_stored(forge(change, digest=True)).record))
    assert "models[a].measurements[baseline]" in name(stored)


def test_the_last_digits_may_be_those_of_another_library() -> None:
    low = json.loads(TEXT)["models"][0]["verdicts"][VERDICT]["low"]
    for factor, found in ((1 + 1e-12, False), (1 + 1e-6, True)):
        change = put(*MODEL, "verdicts", VERDICT, "low", value=low * factor)
        stored = decode_stored(encode_record(decode_stored(forge(change, digest=True)).record))
        assert bool(name(stored)) == found


def test_json_that_says_the_same_otherwise_is_told() -> None:
    [doubt] = verify_record(decode_stored(TEXT.replace("\n", "\n ", 1)), "it")
    assert str(doubt) == "record: its JSON says the same and is written otherwise"


def test_a_record_without_a_digest_was_changed_unless_it_is_of_before_there_were_any() -> None:
    document = json.loads(TEXT)
    del document["digest"]
    [changed] = verify_record(decode_stored(json.dumps(document)), "it")
    assert (changed.where, changed.open) == ("digest", False)
    document["schema"] = 3
    [former] = verify_record(decode_stored(json.dumps(document)), "it")
    assert (former.where, former.open) == ("digest", True)
    [dated_back] = verify_record(decode_stored(json.dumps({**json.loads(TEXT), "schema": 3})), "it")
    assert (dated_back.where, dated_back.open) == ("digest", True)


def test_verdicts_of_another_version_and_of_checks_that_are_not_here_cannot_be_told() -> None:
    foreign = forge(put("tool", "version", value="9.9"), digest=True)
    document = json.loads(foreign)
    document["models"][0]["verdicts"][VERDICT]["observed"] = 3.0
    document["models"][0]["verdicts"][0]["check"] = "of-another-package"
    stored = decode_stored(encode_record(decode_stored(json.dumps(document)).record))
    doubts = verify_record(stored, "it")
    assert doubts
    assert all(doubt.open for doubt in doubts)
    assert "9.9" in " ".join(doubt.found for doubt in doubts)


def test_a_page_verifies_and_each_change_of_its_words_is_named(tmp_path: Any) -> None:
    page = render_html(RECORD)
    (tmp_path / "page.html").write_text(page)
    assert verify_record(open_stored(tmp_path / "page.html"), "it") == []
    (tmp_path / "page.html").write_text(page.replace("FAIL", "PASS", 1))
    assert name(open_stored(tmp_path / "page.html")) == ["page"]


@pytest.mark.slow
def test_no_byte_of_a_record_changes_unseen() -> None:
    drawn = random.Random(0)  # noqa: S311 - which bytes, and no secret
    raw = TEXT.encode()
    for _ in range(1000):
        place = drawn.randrange(len(raw))
        changed = bytearray(raw)
        changed[place] ^= 1 << drawn.randrange(8)
        try:
            stored = decode_stored(changed.decode())
        except (RecordError, UnicodeDecodeError):
            continue  # what is no record any more is told as such
        assert stored.list_doubts(), f"byte {place}"
