from __future__ import annotations

import hashlib
import json
import sys

from support.evidence import make_protocol

from sw_audit.record.identity import compare_protocols, describe_environment


def test_protocols_differ_in_words() -> None:
    now = make_protocol()
    text = now.corpus.model_copy(update={"name": "wiki.txt", "sha256": "0" * 64})
    assert compare_protocols(now.model_copy(update={"corpus": text}), now) == (
        "another text (wiki.txt then, specimen now)"
    )
    assert compare_protocols(now.model_copy(update={"tokenizer": "0" * 64}), now) == "another tokenizer"


def test_the_environment_names_what_decides_figures() -> None:
    environment = describe_environment(threads=3)
    assert environment.threads == 3
    assert environment.python == ".".join(str(part) for part in sys.version_info[:3])
    assert {"numpy", "sw-audit", "torch", "transformers"} <= environment.packages.keys()


def test_the_signature_changes_with_everything_that_decides_a_figure() -> None:
    protocol = make_protocol()
    changes: list[dict[str, object]] = [
        {"tokenizer": "other"},
        {"window": 65},
        {"stride": 32},
        {"windows": 31},
        {"bos": "absent"},
        {"dtype": "bfloat16"},
        {"seed": 1},
        {"engine": "llama.cpp"},
        {"corpus": protocol.corpus.model_copy(update={"sha256": "0" * 64})},
    ]
    assert {name for change in changes for name in change} == type(protocol).model_fields.keys()
    signatures = {protocol.model_copy(update=change).signature for change in changes} | {protocol.signature}
    assert len(signatures) == len(changes) + 1
    assert str(protocol).startswith(protocol.signature)
    assert len(protocol.signature) == 12
    # Records of before there were engines keep their signatures.
    content = protocol.model_dump(mode="json", exclude={"engine"})
    written = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert protocol.signature == hashlib.sha256(written.encode()).hexdigest()[:12]
