"""What a record's digest is made of, and that it names what was changed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sw_audit.record.digest import RecordDigest, compare_digests, digest_document

DOCUMENT = {
    "schema": 4,
    "policy": {"seed": 0, "confidence": 0.95},
    "models": [
        {
            "model": {"id": "a"},
            "seconds": 1.5,
            "measurements": [
                {"arm": {"purpose": {"kind": "baseline"}}, "loss": 2.0},
                {"arm": {"purpose": {"kind": "dose", "alpha": 0.5}}, "loss": 3.0},
            ],
            "verdicts": [{"check": "x", "status": "pass"}, {"check": "y", "status": "fail"}],
        },
        {"model": "b", "message": "no", "verdicts": []},
    ],
}
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


def change(place: list[Any], value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    part: Any = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return document


def name_changes(document: dict[str, Any]) -> tuple[str, ...]:
    return compare_digests(digest_document(DOCUMENT), digest_document(document))


def test_the_digest_is_the_sha256_of_sorted_json_without_space_and_without_itself() -> None:
    document = {"b": [1, 2.5], "a": "ä", "digest": "is left out"}
    canonical = b'{"a":"\\u00e4","b":[1,2.5]}'
    digest = digest_document(document)
    assert digest.sha256 == hashlib.sha256(canonical).hexdigest()
    assert digest.parts == {
        "b": hashlib.sha256(b"[1,2.5]").hexdigest()[:16],
        "a": hashlib.sha256(b'"\\u00e4"').hexdigest()[:16],
    }


def test_each_change_is_named_by_where_it_is() -> None:
    assert name_changes(change(["schema"], 5)) == ("schema",)
    assert name_changes(change(["policy", "confidence"], 0.9)) == ("policy.confidence",)
    assert name_changes(change(["models", 0, "seconds"], 2.5)) == ("models[a].seconds",)
    assert name_changes(change(["models", 0, "measurements", 1, "loss"], 2.0)) == (
        "models[a].measurements[dose/0.5]",
    )
    assert name_changes(change(["models", 0, "verdicts", 1, "status"], "pass")) == ("models[a].verdicts[y]",)
    assert name_changes(change(["models", 1, "message"], "yes")) == ("models[b].message",)


def test_what_is_left_out_and_what_is_added_are_named() -> None:
    left_out = change(["models", 0, "verdicts"], DOCUMENT["models"][0]["verdicts"][:1])  # type: ignore[index]
    assert name_changes(left_out) == ("models[a].verdicts", "models[a].verdicts[y]")
    assert name_changes(change(["policy", "laws"], "gate")) == ("policy.laws",)


def test_entries_without_a_name_of_their_own_are_named_by_their_place() -> None:
    twice = change(["models", 0, "verdicts", 1, "check"], "x")
    assert set(name_changes(twice)) == {f"models[a].verdicts[{place}]" for place in ("0", "1", "x", "y")}


def test_a_digest_that_was_changed_itself_is_named() -> None:
    digest = digest_document(DOCUMENT)
    other = RecordDigest(sha256=64 * "0", parts=digest.parts)
    assert compare_digests(other, digest) == ("digest",)
    assert compare_digests(digest, digest) == ()


@given(key=st.sampled_from(["schema", "policy", "extra"]), value=values)
@settings(max_examples=40, deadline=None)
def test_two_documents_have_the_same_digest_only_if_they_say_the_same(key: str, value: Any) -> None:
    document = {**DOCUMENT, key: {"seed": value} if key == "policy" else value}
    same = json.dumps(document, sort_keys=True) == json.dumps(DOCUMENT, sort_keys=True)
    assert (digest_document(document).sha256 == digest_document(DOCUMENT).sha256) == same
    assert bool(name_changes(document)) != same
