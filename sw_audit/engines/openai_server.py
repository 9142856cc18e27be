"""A running server that speaks OpenAI's completions API, and tells log-probabilities of tokens that it is given.

Servers do so in three ways, and which one is found out by asking, not by name. vLLM tells those of a prompt
(`prompt_logprobs`). Some write the prompt with its completion, log-probabilities included (`echo`). Others, such
as llama.cpp's, tell those of what they write: they are asked for one token after the other, and a bias lets them
write the token that follows. The bias changes what is written and not what is told; that is tried at first.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import torch

from sw_audit.corpus.windows import Windows
from sw_audit.engines.completions import SERVE, Completions, Told, UntoldError
from sw_audit.engines.engine import Distributions, Engine, EngineKind, EngineRequest, Piece, register
from sw_audit.engines.json_over_http import JsonServer, RefusedError, split_url
from sw_audit.errors import InputError, PolicyError
from sw_audit.measure.generation import GreedyContinuation, Prompt
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.engine import EngineIdentity

OPENAI = "openai"
_USUAL = (100, 20, 5)
"""How many of the likeliest tokens are asked for, unless a policy says: the first number that a server allows."""
_TOKENS_AT_ONCE = 2048
_NUMBERS_AT_ONCE = 1 << 21
"""Log-probabilities of one answer, at some 60 bytes each."""
_BIAS = 100
"""The largest that OpenAI's API allows."""
_CLOSE = 0.05
"""Nats between two answers about one token: servers compute batches of several sizes in several ways."""
_ROUNDING = 1e-3
_UNKNOWN = (400, 403, 404, 405, 422, 501)
"""Statuses by which servers say that they do not know a question."""


class CompletionsServer(Engine):
    """A model on a server that speaks OpenAI's completions API.

    Args:
        server: The server.
        request: How the model is to be opened.

    Raises:
        EngineError: If the server does not answer, has another model, or does not tell what is needed.
    """

    def __init__(self, server: JsonServer, request: EngineRequest) -> None:
        self._server, self._request = server, request
        model = _find_model(server, request.model.served)
        self._version = _find_version(server, model)
        self._completions = Completions(server, model["id"], request.checkpoint.vocabulary)
        self._way = _find_way(self._completions, request.model.top_tokens)
        _require_positions(server, model, request.positions + self._way.written)

    @property
    def identity(self) -> EngineIdentity:
        """The server's version, and in which way it tells log-probabilities."""
        vocabulary, kept = self._completions.vocabulary, self._way.kept
        return EngineIdentity(
            engine=self._request.model.engine,
            version=self._version,
            served=self._completions.model,
            vocabulary=vocabulary,
            top_tokens=None if kept == vocabulary else kept,
            settings={"log-probabilities": self._way.name},
        )

    def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
        """Ask for whole windows, several at once, or for one token after the other."""
        return self._way.score(windows.token_ids.tolist(), pieces)

    def continue_prompts(
        self, prompts: Sequence[Prompt], ends: frozenset[int], progress: Progress = ignore_progress
    ) -> tuple[GreedyContinuation, ...]:
        """Let the server continue one prompt after the other; what it takes for an end itself is one too."""
        total = sum(prompt.new_tokens for prompt in prompts)
        done, continuations = 0, []
        for prompt in prompts:
            progress("generating", done, total)
            continuations.append(self._continue(prompt, ends))
            done += prompt.new_tokens
        progress("generating", done, total)
        return tuple(continuations)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ask `/tokenize`, which vLLM and llama.cpp have beside the address; the fields are those of both."""
        return self._ask_tokens(
            {"prompt": text, "add_special_tokens": False, "content": text, "add_special": False}
        )

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Ask `/apply-template`, which llama.cpp has, else `/tokenize`, which in vLLM takes a conversation.

        Where tokens are told, and the files' tokenizer and template make the same ones, it is the files' text.
        """
        with suppress(NotImplementedError):
            text = self._ask_beside("/apply-template", {"messages": list(messages)}).get("prompt")
            if isinstance(text, str):
                return text
        tokens = self._ask_tokens({"messages": list(messages), "add_generation_prompt": True})
        tokenizer = self._request.checkpoint.tokenizer
        with suppress(Exception):  # a template is a program that comes with the files
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            if tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) == tokens:
                return str(text)
        return str(tokenizer.decode(tokens))

    def close(self) -> None:
        """Let go of the connection."""
        self._server.close()

    def _continue(self, prompt: Prompt, ends: frozenset[int]) -> GreedyContinuation:
        question = {"max_tokens": prompt.new_tokens, "logprobs": 1, "stop_token_ids": sorted(ends)}
        choice = self._completions.ask([prompt.token_ids], question)[0]
        written = self._completions.read_written(choice)
        if len(written) > prompt.new_tokens or (
            len(written) < prompt.new_tokens and choice.get("finish_reason") != "stop"
        ):
            found = f"it writes {len(written)} tokens where {prompt.new_tokens} were asked"
            raise self._server.fail(found, "see what the server's log says")
        end = next((place for place, one in enumerate(written) if one.token in ends), len(written))
        sound = [math.isfinite(one.log_probability) for one in written[: end + 1]]
        finite = all(sound)
        tokens = tuple(one.token for one in written[: end if finite else sound.index(False)])
        return GreedyContinuation(tokens, "", finite)

    def _ask_beside(self, path: str, question: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._server.post(path, {"model": self._completions.model, **question}, beside=True)
        except RefusedError as error:
            if error.status not in _UNKNOWN:
                raise
            raise NotImplementedError(error.found) from error

    def _ask_tokens(self, question: Mapping[str, Any]) -> tuple[int, ...]:
        tokens = self._ask_beside("/tokenize", question).get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise NotImplementedError("the server's answer to /tokenize has no token ids")
        return tuple(tokens)


class _Way(ABC):
    """One way to ask for log-probabilities of given tokens, with so many of the likeliest ones at each place."""

    written = 1
    """Tokens that the server writes after those that it is given."""

    def __init__(self, completions: Completions, kept: int) -> None:
        self.completions, self.kept = completions, kept

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in a record."""

    @abstractmethod
    def attempt(self, prompt: Sequence[int]) -> None:
        """Try it; UntoldError or RefusedError if the server does not do so."""

    @abstractmethod
    def score(self, rows: Sequence[Sequence[int]], pieces: Sequence[Piece]) -> Iterator[Distributions]:
        """See `Engine.score`."""

    def gather(self, places: Sequence[Told]) -> Distributions:
        """Make distributions of what is told of places, and refuse what cannot be log-probabilities."""
        server, ranked = self.completions.server, []
        for place in places:
            # What is no number comes first, so that no token passes for the likeliest.
            order = sorted(place.likeliest.items(), key=lambda one: (not math.isnan(one[1]), -one[1]))[: self.kept]
            if len(order) < self.kept:
                found = f"it tells of {len(order)} tokens at a place where the likeliest {self.kept} were asked"
                raise server.fail(found, "ask for fewer `top_tokens`")
            told = [value for _, value in order if not math.isnan(value)]
            total = math.fsum(map(math.exp, told)) if max(told, default=0.0) < 1.0 else math.inf
            if total > 1 + _ROUNDING or place.log_probability > _ROUNDING:
                found = f"what it tells are no log-probabilities: those of a place sum to {total:.4g}"
                raise server.fail(found, "let it tell those of the model itself (vLLM: raw_logprobs)")
            ranked.append(order)
        targets = torch.tensor([place.log_probability for place in places])
        token_ids = torch.tensor([[token for token, _ in order] for order in ranked])
        values = torch.tensor([[value for _, value in order] for order in ranked])
        if self.kept == self.completions.vocabulary:
            return Distributions(values.gather(1, token_ids.argsort(1)), targets)
        return Distributions(values, targets, token_ids)


class _OfPrompts(_Way):
    """Whole prompts, several at once, with the log-probabilities of all their tokens: vLLM's way."""

    name = "of whole prompts (prompt_logprobs)"

    def attempt(self, prompt: Sequence[int]) -> None:
        self.gather(self._ask([prompt])[0])

    def score(self, rows: Sequence[Sequence[int]], pieces: Sequence[Piece]) -> Iterator[Distributions]:
        by_window = [(window, list(some)) for window, some in groupby(pieces, key=lambda piece: piece.window)]
        length = len(rows[0])
        at_once = max(1, min(_TOKENS_AT_ONCE, _NUMBERS_AT_ONCE // self.kept) // length)
        for begin in range(0, len(by_window), at_once):
            some = by_window[begin : begin + at_once]
            for places, (_, own) in zip(self._ask([rows[window] for window, _ in some]), some, strict=True):
                for piece in own:
                    yield self.gather(places[piece.first : piece.end])

    def _ask(self, prompts: Sequence[Sequence[int]]) -> list[list[Told]]:
        choices = self.completions.ask(prompts, {"max_tokens": 1, "prompt_logprobs": self.kept})
        return [self.completions.read_prompt(*one) for one in zip(choices, prompts, strict=True)]


class _Echoed(_OfPrompts):
    """Likewise, in OpenAI's older way: the prompt is written with its completion."""

    name = "of whole prompts (echo)"

    def _ask(self, prompts: Sequence[Sequence[int]]) -> list[list[Told]]:
        choices = self.completions.ask(prompts, {"max_tokens": 1, "echo": True, "logprobs": self.kept})
        return [self.completions.read_echo(*one) for one in zip(choices, prompts, strict=True)]


class _TokenByToken(_Way):
    """One token after the other, written because of a bias: llama.cpp's way, which keeps what went before."""

    name = "of one token after the other (logit_bias)"

    def attempt(self, prompt: Sequence[int]) -> None:
        free = self._ask(prompt, logprobs=max(self.kept, 2))
        ranked = sorted(free.likeliest.items(), key=lambda one: -one[1])
        if len(ranked) < 2:
            raise UntoldError(self.completions.server.asked, "it tells of no second token", SERVE)
        other, known = ranked[1]
        forced = self._force(prompt, other)
        told = forced.log_probability
        if math.isfinite(known) and not abs(told - known) < _CLOSE:
            found = f"a bias changes the log-probability that is told, from {known:.3f} to {told:.3f}"
            raise UntoldError(self.completions.server.asked, found, SERVE)
        self.gather([forced])

    def score(self, rows: Sequence[Sequence[int]], pieces: Sequence[Piece]) -> Iterator[Distributions]:
        for piece in pieces:
            row = rows[piece.window]
            yield self.gather([self._force(row[: at + 1], row[at + 1]) for at in range(piece.first, piece.end)])

    def _force(self, prompt: Sequence[int], token: int) -> Told:
        told = self._ask(prompt, logit_bias={str(token): _BIAS})
        if told.token == token:
            return told
        if math.isfinite(told.log_probability):
            found = f"it writes token {told.token} in spite of a bias of {_BIAS} for {token}"
            raise UntoldError(self.completions.server.asked, found, SERVE)
        return Told(token, math.nan, told.likeliest)

    def _ask(self, prompt: Sequence[int], **more: Any) -> Told:
        question = {"max_tokens": 1, "logprobs": self.kept, **more}
        written = self.completions.read_written(self.completions.ask([prompt], question)[0])
        if len(written) != 1:
            found = f"it tells of {len(written)} tokens where 1 was asked"
            raise self.completions.server.fail(found, "see what the server's log says")
        return written[0]


def _find_model(server: JsonServer, served: str | None) -> dict[str, Any]:
    """Find what the server tells of the model, its `id` at least."""
    try:
        listed = server.wait("/models").get("data")
    except RefusedError as error:
        if error.status != 404 or served is None:
            raise
        return {"id": served}
    models = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    by_name = {one["id"]: one for one in models if isinstance(one.get("id"), str)}
    if not by_name:
        raise server.fail("the server names no model", "load one into it")
    shown = ", ".join(repr(name) for name in list(by_name)[:5]) + (" and others" if len(by_name) > 5 else "")
    if served is None and len(by_name) > 1:
        raise server.fail(f"the server has several models: {shown}", "choose one by `served`")
    if served is not None and served not in by_name:
        raise server.fail(f"the server has no model {served!r}, but {shown}", "correct `served`")
    return by_name[served] if served is not None else next(iter(by_name.values()))


def _find_version(server: JsonServer, model: Mapping[str, Any]) -> str:
    """Find out which program it is: vLLM and llama.cpp tell their versions beside the address."""
    for path, key in (("/version", "version"), ("/props", "build_info")):
        with suppress(RefusedError):
            version = server.get(path, beside=True).get(key)
            if isinstance(version, str):
                return " ".join(part for part in (model.get("owned_by"), version) if isinstance(part, str))[:100]
    return ""


def _find_way(completions: Completions, asked: int | None) -> _Way:
    prompt = [token % completions.vocabulary for token in range(4)]
    because = []
    for make in (_OfPrompts, _Echoed, _TokenByToken):
        for number in _USUAL if asked is None else (asked,):
            way: _Way = make(completions, min(number, completions.vocabulary))
            try:
                way.attempt(prompt)
            except RefusedError as error:
                if error.status not in _UNKNOWN:
                    raise
                because.append(f"{way.name}, {way.kept} of them: {error.words or error.found}")
            except UntoldError as error:
                because.append(f"{way.name}: {error.found}")
                break
            else:
                return way
    found = f"the server tells no log-probabilities of given tokens ({'; '.join(because)})"
    raise completions.server.fail(found, SERVE if asked is None else f"ask for fewer `top_tokens`, or {SERVE}")


def _require_positions(server: JsonServer, model: Mapping[str, Any], needed: int) -> None:
    meta = model.get("meta")
    for limit in (model.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None):
        if isinstance(limit, int) and limit < needed:
            found = f"the server takes sequences of {limit} tokens, and {needed} are needed"
            raise server.fail(found, "let it take longer ones, or set a shorter `corpus.window`")


def _find_obstacle(_: ModelPolicy) -> str | None:
    return None


def _require(model: ModelPolicy) -> None:
    asked = f"model {model.id!r} in {OPENAI}"
    if model.url is None:
        raise PolicyError(asked, "no `url` says where its server is", "write `url`, as http://127.0.0.1:8000/v1")
    split_url(model.url)
    _find_key(model)


def _find_key(model: ModelPolicy) -> str:
    """Return the server's key; InputError if its variable holds none that can be sent."""
    if model.key_variable is None:
        return ""
    asked = f"key_variable {model.key_variable!r} of model {model.id!r}"
    key = os.environ.get(model.key_variable, "").strip()
    if not key:
        raise InputError(
            asked, "there is no such environment variable, or it is empty", "set it to the server's key"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(asked, "it holds characters that no key has", "set it to the server's key alone")
    return key


def _open(request: EngineRequest) -> CompletionsServer:
    model = request.model
    _require(model)
    assert model.url is not None  # noqa: S101 - `_require` has looked
    server = JsonServer(f"model {model.id!r} at {model.url}", model.url, model.timeout, key=_find_key(model))
    try:
        return CompletionsServer(server, request)
    except BaseException:
        server.close()
        raise


OPENAI_ENGINE = register(
    EngineKind(
        name=OPENAI,
        what="a running server that speaks OpenAI's completions API, such as vLLM's or llama.cpp's",
        extra="",
        kv_caches=(),
        find_obstacle=_find_obstacle,
        require=_require,
        open=_open,
        takes_url=True,
    )
)
