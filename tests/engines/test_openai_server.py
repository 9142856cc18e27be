"""A server that is asked for log-probabilities: the ways to ask, and one line for whatever it does amiss."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quantizing import pack_gguf
from support.serving import Answer, Serving, send, serve, serve_llama_cpp, write_small_llama

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.engines.engine import Distributions, Engine, EngineRequest, cut_pieces
from sw_audit.engines.openai_server import OPENAI_ENGINE
from sw_audit.engines.registry import require_engine
from sw_audit.engines.transformers import Transformers
from sw_audit.errors import InputError
from sw_audit.measure.generation import Prompt, generate_continuations
from sw_audit.measure.readers import LOGITS_AT_ONCE
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

WAYS = ("prompt_logprobs", "echo", "logit_bias")
KEY = "sk-do-not-show-this"
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
WINDOWS = Windows(
    torch.tensor([[0, 28, 94, 2, 11, 61, 7, 3], [0, 7, 12, 94, 40, 5, 90, 8], [0, 3, 66, 2, 28, 44, 9, 51]]),
    torch.tensor([1, 1, 4]),
    None,
    0,
)
PIECES = cut_pieces(WINDOWS, LOGITS_AT_ONCE // 3)
"""Of three places, so that a window has several."""


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


@pytest.fixture
def serving(checkpoint: Checkpoint) -> Iterator[Serving]:
    with serve(Serving(checkpoint)) as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    folder = write_small_llama(tmp_path_factory.mktemp("llama"))
    letters = [chr(letter) for letter in range(0x21, 0x7F)]
    tokens = (*letters, "ab", *(f"unused{number}" for number in range(210 - len(letters) - 1)))
    pack_gguf(folder, folder / "small.gguf", "F32", tokens, {"tokenizer.chat_template": TEMPLATE})
    return folder / "small.gguf"


def open_(serving: Serving, positions: int = 24, **settings: Any) -> Engine:
    settings = {"url": serving.url, "timeout": 5.0, **settings}
    model = ModelPolicy(source=str(specimen_path()), id="small", engine="openai", **settings)
    require_engine(model)
    return OPENAI_ENGINE.open(EngineRequest(model, positions, serving.checkpoint))


def score(engine: Engine) -> list[Distributions]:
    return list(engine.score(WINDOWS, PIECES))


def fail(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    assert KEY not in line
    return line


@pytest.mark.parametrize("way", WAYS)
def test_each_way_tells_what_transformers_says(way: str, serving: Serving) -> None:
    serving.speaks = frozenset({way})
    expected = list(Transformers(serving.checkpoint).score(WINDOWS, PIECES))
    with open_(serving, top_tokens=7) as engine:
        assert way in engine.identity.settings["log-probabilities"]
        assert engine.identity.top_tokens == 7
        assert (engine.identity.version, engine.identity.served) == ("test 1.2", "small")
        found = score(engine)
    assert len(found) == len(expected) > 3
    for own, whole in zip(found, expected, strict=True):
        assert own.token_ids is not None
        torch.testing.assert_close(own.targets, whole.targets, atol=1e-4, rtol=0)
        likeliest = whole.log_probabilities.topk(7)
        torch.testing.assert_close(own.log_probabilities, likeliest.values, atol=1e-4, rtol=0)
        assert torch.equal(own.token_ids, likeliest.indices)


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_tells_all_tokens_gives_whole_distributions(way: str, serving: Serving) -> None:
    serving.speaks = frozenset({way})
    expected = list(Transformers(serving.checkpoint).score(WINDOWS, PIECES))
    with open_(serving, top_tokens=5000) as engine:
        assert engine.identity.top_tokens is None
        for own, whole in zip(score(engine), expected, strict=True):
            assert own.token_ids is None
            torch.testing.assert_close(own.log_probabilities, whole.log_probabilities, atol=1e-4, rtol=0)


def test_as_many_tokens_are_asked_for_as_the_server_allows(serving: Serving) -> None:
    serving.most = 20
    with open_(serving) as engine:
        assert engine.identity.top_tokens == 20
    assert "21 are more than 20" in fail(lambda: open_(serving, top_tokens=21))


@pytest.mark.parametrize("way", WAYS)
def test_prompts_are_continued_as_in_transformers(way: str, serving: Serving) -> None:
    serving.speaks = frozenset({way})
    prompts = [Prompt("", tuple(row), len(row), 6) for row in WINDOWS.token_ids[:, :5].tolist()]
    expected = [one.tokens for one in generate_continuations(serving.checkpoint, prompts)]
    steps: list[tuple[int, int]] = []
    with open_(serving) as engine:
        found = engine.continue_prompts(prompts, frozenset({1}), lambda _, done, all_: steps.append((done, all_)))
        assert [one.tokens for one in found] == expected
        assert all(one.finite for one in found)
        end = expected[0][2]
        short = engine.continue_prompts(prompts[:1], frozenset({end}))[0]
        assert serving.questions[-1][2]["stop_token_ids"] == [end]
        assert short.tokens == expected[0][: expected[0].index(end)]
    assert steps[-1] == (18, 18)


def test_texts_are_cut_by_the_server_and_what_it_does_not_do_is_said(serving: Serving) -> None:
    with open_(serving) as engine:
        assert (
            engine.tokenize("the fox sang")
            == tuple(serving.checkpoint.tokenizer("the fox sang")["input_ids"])[-3:]
        )
        with pytest.raises(NotImplementedError, match="status 404: not found"):
            engine.render([{"role": "user", "content": "Hello"}])


def test_a_figure_that_is_no_number_leaves_no_likeliest_token(serving: Serving) -> None:
    def spoil(answer: Answer) -> None:
        for choice in answer["choices"]:
            for entry in choice["prompt_logprobs"][1:]:
                entry[list(entry)[-1]]["logprob"] = math.nan

    with open_(serving, top_tokens=9) as engine:
        serving.spoil = spoil
        assert all((own.top == -1).all() for own in score(engine))


def test_no_figure_is_dropped_that_is_no_number(serving: Serving) -> None:
    def spoil(answer: Answer) -> None:
        for choice in answer["choices"]:
            for entry in (choice.get("prompt_logprobs") or [])[1:]:
                for told in entry.values():
                    told["logprob"] = None if len(serving.questions) % 2 else math.nan

    with open_(serving) as engine:
        serving.spoil = spoil
        for own in score(engine):
            assert own.targets.isnan().all()
            assert (own.top == -1).all()
        serving.spoil = lambda answer: answer["choices"][0]["logprobs"].update(
            token_logprobs=[-1.0, math.nan, *answer["choices"][0]["logprobs"]["token_logprobs"][2:]]
        )
        found = engine.continue_prompts([Prompt("", (0, 28, 94), 3, 5)], frozenset())[0]
        assert not found.finite
        assert len(found.tokens) == 1


def cut(answer: Answer) -> None:
    answer["choices"][0]["prompt_logprobs"].pop()


def rename(answer: Answer) -> None:
    answer["model"] = "another"


def add_start(answer: Answer) -> None:
    answer["usage"]["prompt_tokens"] += 1


def drop_choice(answer: Answer) -> None:
    answer["choices"].pop()


def other_tokens(answer: Answer) -> None:
    told = answer["choices"][0]["prompt_logprobs"]
    told[1], told[2] = {"200": {"logprob": -9.0}}, {"201": {"logprob": -9.0}}


def beyond(answer: Answer) -> None:
    answer["choices"][0]["prompt_logprobs"][1]["210"] = {"logprob": -30.0}


def scores(answer: Answer) -> None:
    for entry in answer["choices"][0]["prompt_logprobs"][1:]:
        for told in entry.values():
            told["logprob"] += 3.0


def text(answer: Answer) -> None:
    answer["choices"][0]["prompt_logprobs"][1] = {"5": {"logprob": "high"}}


def few(answer: Answer) -> None:
    entry = answer["choices"][0]["prompt_logprobs"][5]
    for token in list(entry)[1:]:
        del entry[token]


def huge(answer: Answer) -> None:
    next(iter(answer["choices"][0]["prompt_logprobs"][1].values()))["logprob"] = -(10**400)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (cut, "it tells of 7 tokens where 8 were asked"),
        (rename, "model 'another' answers, after 'small'"),
        (drop_choice, "2 completions come of 3 prompts"),
        (other_tokens, "it tells of other tokens where the prompt has"),
        (beyond, "it tells of token 210, and the model of the files has 210"),
        (scores, "what it tells are no log-probabilities"),
        (text, "it tells 'high' as a log-probability"),
        (few, "it tells of 1 tokens at a place where the likeliest 100 were asked"),
        (huge, "as a log-probability"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_is_one_line(
    spoil: Callable[[Answer], None], line: str, serving: Serving
) -> None:
    with open_(serving) as engine:
        serving.spoil = spoil
        assert line in fail(lambda: score(engine))


def test_a_server_that_adds_a_token_of_its_own_is_one_line(serving: Serving) -> None:
    serving.spoil = add_start
    assert "the server took 5 tokens where 4 were given" in fail(lambda: open_(serving))


def test_fewer_tokens_than_asked_are_one_line(serving: Serving) -> None:
    def shorten(answer: Answer) -> None:
        for column in answer["choices"][0]["logprobs"].values():
            column.pop()

    with open_(serving) as engine:
        serving.spoil = shorten
        line = fail(lambda: engine.continue_prompts([Prompt("", (0, 28, 94), 3, 5)], frozenset()))
    assert "it writes 4 tokens where 5 were asked" in line


def test_a_server_that_tells_nothing_of_given_tokens_is_one_line(serving: Serving) -> None:
    serving.speaks = frozenset()
    line = fail(lambda: open_(serving))
    assert "tells no log-probabilities of given tokens" in line
    assert "it writes token" in line
    assert "serve the model with vLLM or llama.cpp's server" in line


def test_log_probabilities_that_a_bias_changes_are_not_taken(serving: Serving) -> None:
    serving.speaks = frozenset({"logit_bias"})

    def bias(answer: Answer) -> None:
        told = answer["choices"][0].get("logprobs")
        if told and "logit_bias" in serving.questions[-1][2]:
            told["token_logprobs"] = [-0.0]

    serving.spoil = bias
    assert "a bias changes the log-probability that is told" in fail(lambda: open_(serving))


def test_tokens_that_are_named_by_texts_are_not_taken(serving: Serving) -> None:
    serving.speaks = frozenset({"echo"})

    def name(answer: Answer) -> None:
        told = answer["choices"][0].get("logprobs")
        if told:
            told["tokens"] = ["the"] * len(told["tokens"])

    serving.spoil = name
    assert "it names tokens by their texts" in fail(lambda: open_(serving))


def test_the_server_must_have_the_model(serving: Serving) -> None:
    assert "has no model 'large', but 'small'; correct `served`" in fail(lambda: open_(serving, served="large"))
    serving.models = [{"id": "small"}, {"id": "other"}]
    assert "several models: 'small', 'other'; choose one by `served`" in fail(lambda: open_(serving))
    with open_(serving, served="other") as engine:
        assert engine.identity.served == "other"
    serving.models = []
    assert "names no model" in fail(lambda: open_(serving))


@pytest.mark.parametrize("told", [{"max_model_len": 24}, {"meta": {"n_ctx": 24}}])
def test_sequences_must_fit_into_the_server(told: Answer, serving: Serving) -> None:
    serving.models = [{"id": "small", **told}]
    assert "takes sequences of 24 tokens, and 25 are needed" in fail(lambda: open_(serving, positions=24))
    open_(serving, positions=23).close()


def test_a_key_is_sent_and_never_shown(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)

    def refuse(handler: BaseHTTPRequestHandler, _: str, __: Answer) -> bool:
        send(handler, 401, f'{{"error": {{"message": "no such key: {KEY}\\u001b[2J"}}}}'.encode())
        return True

    with open_(serving, key_variable="SERVER_KEY") as engine:
        score(engine)
        assert KEY not in repr(engine.identity)
    assert {headers["Authorization"] for _, headers, _ in serving.questions} == {f"Bearer {KEY}"}
    serving.reply = refuse
    line = fail(lambda: open_(serving, key_variable="SERVER_KEY"))
    assert r"status 401: no such key: [key]\x1b[2J; name the environment variable" in line
    serving.reply = lambda *_: False
    serving.questions.clear()
    open_(serving).close()
    assert "Authorization" not in serving.questions[0][1]


@pytest.mark.parametrize(("value", "found"), [(None, "no such environment variable"), ("a\r\nb", "characters")])
def test_a_key_that_cannot_be_sent_is_one_line_without_it(
    value: str | None, found: str, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SERVER_KEY", value)
    line = fail(lambda: open_(serving, key_variable="SERVER_KEY"))
    assert found in line
    assert "a\\r\\nb" not in line
    assert not serving.questions


def test_nobody_is_followed_elsewhere(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Serving(serving.checkpoint)) as elsewhere:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.url.removesuffix("/v1"))
        with open_(serving) as engine:
            score(engine)

        def redirect(handler: BaseHTTPRequestHandler, path: str, _: Answer) -> bool:
            send(handler, 307, b"", Location=elsewhere.url.removesuffix("/v1") + path)
            return True

        serving.reply = redirect
        assert "points to another address (status 307), which is not followed" in fail(lambda: open_(serving))
        assert not elsewhere.questions


@pytest.mark.parametrize("slow", ["before", "between"])
def test_an_answer_that_takes_too_long_is_one_line_in_time(slow: str, serving: Serving) -> None:
    stop = threading.Event()

    def crawl(handler: BaseHTTPRequestHandler, *_: Any) -> bool:
        if slow == "between":
            handler.send_response(200)
            handler.flush_headers()
        while not stop.wait(0.05):
            if slow == "between":
                handler.wfile.write(b"X-Slow: yes\r\n")
        return True

    serving.reply = crawl
    begun = time.monotonic()
    try:
        line = fail(lambda: open_(serving, timeout=0.5))
    finally:
        stop.set()
    assert "the server does not answer within 0.5 seconds; set a longer `timeout`" in line
    assert time.monotonic() - begun < 3


def whole(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b'{"data": [{"id": "sma')


def broken_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": []}')
    handler.close_connection = True


def in_pieces(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'20\r\n{"data": []}')
    handler.close_connection = True


def closed(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    handler.close_connection = True


def a_list(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b"[]")


def deep(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b"[" * 100_000)


def page(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 502, b"<html>Bad\ngateway" + b"." * 5000)


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (whole, "its answer to /models, 21 bytes, is no whole JSON"),
        (broken_off, "its answer breaks off after 12 bytes"),
        (in_pieces, "the server breaks off, or its answer is no HTTP (IncompleteRead)"),
        (closed, "no server answers there: Remote end closed connection without response"),
        (no_http, "the server breaks off, or its answer is no HTTP (BadStatusLine)"),
        (a_list, "its answer to /models is no JSON object"),
        (deep, "is no whole JSON"),
        (page, "the server answers /models with status 502: <html>Bad gateway...."),
    ],
)
def test_an_answer_that_is_none_is_one_line(
    reply: Callable[[BaseHTTPRequestHandler], None], line: str, serving: Serving
) -> None:
    def answer(handler: BaseHTTPRequestHandler, *_: Any) -> bool:
        reply(handler)
        return True

    serving.reply = answer
    found = fail(lambda: open_(serving))
    assert line in found
    assert len(found) < 800


def test_a_connection_that_was_closed_meanwhile_is_opened_again(serving: Serving) -> None:
    def close(handler: BaseHTTPRequestHandler, *_: Any) -> bool:
        handler.close_connection = True
        return False

    serving.reply = close  # it does not say that it will
    with open_(serving) as engine:
        assert len(score(engine)) == len(PIECES)


def test_a_server_that_is_loading_is_waited_for(serving: Serving) -> None:
    waits = iter([True, True])

    def load(handler: BaseHTTPRequestHandler, *_: Any) -> bool:
        if next(waits, False):
            send(handler, 503, b'{"error": {"message": "Loading model"}}')
            return True
        return False

    serving.reply = load
    open_(serving).close()
    serving.reply = lambda handler, *_: (send(handler, 503, b'{"error": {"message": "Loading model"}}'), True)[1]
    assert "status 503: Loading model" in fail(lambda: open_(serving, timeout=0.3))


def test_where_nobody_answers_that_is_said(serving: Serving) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        line = fail(lambda: open_(serving, url=url))
    assert (
        line == f"model 'small' at {url}: no server answers there: Connection refused; start it, or correct `url`"
    )


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (None, "no `url` says where its server is"),
        ("localhost:8000/v1", "this is no address of a server"),
        ("file:///etc/passwd", "this is no address of a server"),
        ("http://127.0.0.1:99999/v1", "this is no address"),
        (f"http://me:{KEY}@127.0.0.1/v1", "an address with a user, a password, a query or a fragment"),
        (f"http://127.0.0.1/v1?key={KEY}", "an address with a user, a password, a query or a fragment"),
        ("http://127.0.0.1/v1 x", "it has characters that no address has"),
    ],
)
def test_an_address_that_is_none_is_one_line(url: str | None, found: str, serving: Serving) -> None:
    assert found in fail(lambda: open_(serving, url=url))


def test_the_server_of_llama_cpp_says_what_transformers_says(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setenv("SERVER_KEY", KEY)
    checkpoint = open_checkpoint(ModelPolicy(source=str(file)))
    expected = list(Transformers(checkpoint).score(WINDOWS, PIECES))
    prompts = [Prompt("", tuple(row), len(row), 6) for row in WINDOWS.token_ids[:, :5].tolist()]
    with serve_llama_cpp(file, KEY) as url:
        named = ModelPolicy(source=str(file), id="small", engine="openai", url=url, timeout=60)
        keyed = named.model_copy(update={"key_variable": "SERVER_KEY"})
        assert "status 401" in fail(lambda: OPENAI_ENGINE.open(EngineRequest(named, 32, checkpoint)))
        line = fail(lambda: OPENAI_ENGINE.open(EngineRequest(keyed, 96, checkpoint)))
        assert "takes sequences of 96 tokens, and 97 are needed" in line
        with OPENAI_ENGINE.open(EngineRequest(keyed, 32, checkpoint)) as engine:
            assert "logit_bias" in engine.identity.settings["log-probabilities"]
            assert engine.identity.version.startswith("llamacpp")
            found = list(engine.score(WINDOWS, PIECES))
            continued = engine.continue_prompts(prompts, frozenset())
            assert engine.tokenize("the ab") == tuple(checkpoint.tokenizer("the ab")["input_ids"])
            assert engine.render([{"role": "user", "content": "Hi"}]) == "<user>Hi"
    for own, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(own.targets, whole.targets, atol=2e-2, rtol=0)
        likeliest = whole.log_probabilities.topk(100)
        torch.testing.assert_close(own.log_probabilities, likeliest.values, atol=2e-2, rtol=0)
        assert torch.equal(own.top, likeliest.indices[:, 0])
    assert [one.tokens for one in continued] == [one.tokens for one in generate_continuations(checkpoint, prompts)]
