"""The section on a model in its engine."""

from __future__ import annotations

import math

from support.evidence import make_evidence
from support.sections import build_section, make_context

from sw_audit.record.arm import DEQUANTIZED, Arm, CacheRounding
from sw_audit.record.engine import EngineIdentity, EngineResult, RenderedChat, TokenizedText
from sw_audit.record.measurement import TokenLoss
from sw_audit.record.record import ModelResult

IDENTITY = EngineIdentity(
    engine="llama.cpp", version="b1", package="xllamacpp 1", vocabulary=512, settings={"threads": "2"}
)
CUTS = (
    TokenizedText(text="same", tokens=3, engine_tokens=3),
    TokenizedText(text="other", tokens=4, engine_tokens=5, first_difference=2, expected=(1,), found=(2, 3)),
)
CHATS = (RenderedChat(expected="<a>", found="<a>"), RenderedChat(expected="<b>", found="<c>"))


def make_result(engine: EngineResult, top_tokens: int | None = None) -> ModelResult:
    """A model whose files give twice the perplexity in transformers."""
    result = make_evidence()
    own = result.measurements[0]
    twice = [
        nats + tokens * math.log(2) for nats, tokens in zip(own.loss.finite_nats, own.loss.tokens, strict=True)
    ]
    other = own.model_copy(
        update={
            "arm": Arm(purpose=DEQUANTIZED),
            "loss": TokenLoss(nats=tuple(twice), tokens=own.loss.tokens),
            "agreement": own.agreement.model_copy(update={"top_tokens": top_tokens}),
        }
    )
    cache = own.model_copy(update={"arm": Arm(purpose=CacheRounding(form="q4_0"))})
    return result.model_copy(update={"measurements": (own, other, cache), "engine": engine})


def test_each_way_stands_beside_the_engine() -> None:
    section = build_section("engine", make_context(make_result(EngineResult(identity=IDENTITY))))
    assert "are those of llama.cpp b1 (xllamacpp 1), not of transformers" in section.text
    rows = section.rows("The same tokens")
    assert [row[0] for row in rows] == ["In the engine", "Same files in transformers", "Key-value cache in q4_0"]
    assert rows[1][3] == "2.0000"
    assert rows[0][4:] == ["-", "-"]


def test_texts_and_conversations_that_part_are_shown() -> None:
    engine = EngineResult(identity=IDENTITY, tokenized=CUTS, chats=CHATS, untold="it does not say how")
    section = build_section("engine", make_context(make_result(engine)))
    rows = section.rows("How both cut texts")
    assert [row[3:] for row in rows] == [["Alike", "-"], ["Apart", "2"]]
    assert section.rows("Conversations") == [["<b>", "<c>"]]
    assert "Not compared: it does not say how." in section.text
    alike = EngineResult(identity=IDENTITY, chats=CHATS[:1])
    assert "Both write 1 conversation alike." in build_section("engine", make_context(make_result(alike))).text


def test_likeliest_tokens_alone_are_said_and_without_an_engine_there_is_no_section() -> None:
    told = IDENTITY.model_copy(update={"top_tokens": 20})
    section = build_section("engine", make_context(make_result(EngineResult(identity=told), top_tokens=20)))
    assert section.rows("The same tokens in each way; divergence of the 20 likeliest tokens, all others as one")
    assert build_section("engine", make_context(make_evidence())).elements == []
