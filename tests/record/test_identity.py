from __future__ import annotations

from support.evidence import (
    make_protocol,
)

from sw_audit.record.identity import compare_protocols


def test_protocols_differ_in_words() -> None:
    now = make_protocol()
    text = now.corpus.model_copy(update={"name": "wiki.txt", "sha256": "0" * 64})
    assert compare_protocols(now.model_copy(update={"corpus": text}), now) == (
        "another text (wiki.txt then, specimen now)"
    )
    assert compare_protocols(now.model_copy(update={"tokenizer": "0" * 64}), now) == "another tokenizer"
