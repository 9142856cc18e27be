"""OpenAI's completions API: what it is asked about tokens, and what may be read from its answers.

Tokens are given and read as ids; a server that names them by texts does not tell all of them apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sw_audit.engines.json_over_http import JsonServer
from sw_audit.errors import EngineError

SERVE = "serve the model with vLLM or llama.cpp's server"
_AS_GIVEN = "see that the server takes token ids as they are given"
_GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,  # vLLM takes one from the model's files otherwise
    "repeat_penalty": 1.0,  # llama.cpp's name for it
    "return_tokens_as_token_ids": True,  # in vLLM, which writes `token_id:17` then
}


class UntoldError(EngineError):
    """An answer that comes without the log-probabilities that were asked for."""


@dataclass(frozen=True)
class Told:
    """What a server tells of one place of a text.

    Attributes:
        token: Id of the token there.
        log_probability: Its logarithm of the probability after the tokens before it; NaN for JSON's `null`.
        likeliest: Likewise of the tokens that are likeliest there, by id; the token itself may be among them.
    """

    token: int
    log_probability: float
    likeliest: Mapping[int, float]


class Completions:
    """One model of a server.

    Args:
        server: The server.
        model: What it calls the model.
        vocabulary: How many tokens the model has.
    """

    def __init__(self, server: JsonServer, model: str, vocabulary: int) -> None:
        self.server, self.model, self.vocabulary = server, model, vocabulary
        self._answered: list[object] = []

    def ask(self, prompts: Sequence[Sequence[int]], question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Ask for a greedy completion of each prompt; return one `choice` each, in their order.

        Raises:
            EngineError: If the answer is not one about these prompts, or by another model than before.
        """
        prompt = list(prompts[0]) if len(prompts) == 1 else [list(one) for one in prompts]
        answer = self.server.post("/completions", {"model": self.model, "prompt": prompt, **_GREEDY, **question})
        model = answer.get("model")
        self._answered = self._answered or [model]
        if model != self._answered[0]:
            found = f"model {model!r:.100} answers, after {self._answered[0]!r:.100}"
            raise self.server.fail(found, "let the server keep one model for the whole audit")
        choices = answer.get("choices")
        choices = choices if isinstance(choices, list) else []
        by_index = {choice.get("index"): choice for choice in choices if isinstance(choice, dict)}
        if len(choices) != len(prompts) or any(number not in by_index for number in range(len(prompts))):
            found = f"{len(choices)} completions come of {len(prompts)} prompts"
            raise self.server.fail(found, "see what the server's log says")
        usage = answer.get("usage")
        taken = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        given = sum(map(len, prompts))
        # Some servers count one prompt of several.
        if len(prompts) == 1 and taken is not None and taken != given:
            raise self.server.fail(f"the server took {taken!r:.40} tokens where {given} were given", _AS_GIVEN)
        return [by_index[number] for number in range(len(prompts))]

    def read_written(self, choice: Mapping[str, Any]) -> list[Told]:
        """Read what is told of the tokens that were written.

        There are two forms: llama.cpp's has a list `content`, OpenAI's older one three lists side by side.

        Raises:
            UntoldError: If that is nothing, or in another form.
        """
        told = self._find_logprobs(choice)
        if isinstance(told.get("content"), list):
            return [self._read_entry(entry) for entry in told["content"]]
        names = ("tokens", "token_logprobs", "top_logprobs")
        columns = [told[name] for name in names if isinstance(told.get(name), list)]
        if len(columns) < len(names) or len({len(column) for column in columns}) > 1:
            raise UntoldError(self.server.asked, "it tells no log-probabilities", SERVE)
        return [
            Told(self._read_token(token), self._read_number(value), self._read_likeliest(likeliest))
            for token, value, likeliest in zip(*columns, strict=True)
        ]

    def read_prompt(self, choice: Mapping[str, Any], prompt: Sequence[int]) -> list[Told]:
        """Read what vLLM tells of a prompt (`prompt_logprobs`), its first token left out; see `read_written`."""
        told = choice.get("prompt_logprobs")
        if told is None:
            raise UntoldError(self.server.asked, "it tells no log-probabilities of a prompt", SERVE)
        if not isinstance(told, list) or len(told) != len(prompt):
            raise self._miscounted(len(told) if isinstance(told, list) else 0, len(prompt))
        places = []
        for token, entry in zip(prompt[1:], told[1:], strict=True):
            if not isinstance(entry, dict) or not all(isinstance(one, dict) for one in entry.values()):
                raise self.server.fail(f"it tells nothing of token {token} of a prompt", SERVE)
            likeliest = self._read_likeliest({key: one.get("logprob") for key, one in entry.items()})
            if token not in likeliest:
                raise self.server.fail(f"it tells of other tokens where the prompt has {token}", _AS_GIVEN)
            places.append(Told(token, likeliest[token], likeliest))
        return places

    def read_echo(self, choice: Mapping[str, Any], prompt: Sequence[int]) -> list[Told]:
        """Read what is told of a prompt that is written with its completion (`echo`); see `read_prompt`."""
        columns = {key: value for key, value in self._find_logprobs(choice).items() if isinstance(value, list)}
        if len(columns.get("tokens", ())) < len(prompt):
            raise UntoldError(self.server.asked, "it tells no log-probabilities of a prompt", SERVE)
        places = self.read_written({"logprobs": {key: value[1 : len(prompt)] for key, value in columns.items()}})
        for token, place in zip(prompt[1:], places, strict=True):
            if place.token != token:
                raise self.server.fail(f"it writes token {place.token} where the prompt has {token}", _AS_GIVEN)
        return places

    def _find_logprobs(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        told = choice.get("logprobs")
        if not isinstance(told, dict):
            raise UntoldError(self.server.asked, "it tells no log-probabilities", SERVE)
        return told

    def _read_entry(self, entry: object) -> Told:
        if not isinstance(entry, dict) or not isinstance(top := entry.get("top_logprobs"), list):
            raise UntoldError(self.server.asked, "its log-probabilities are in no form that is known", SERVE)
        pairs = {one.get("id"): one.get("logprob") for one in top if isinstance(one, dict)}
        own = self._read_token(entry.get("id"))
        return Told(own, self._read_number(entry.get("logprob")), self._read_likeliest(pairs))

    def _read_likeliest(self, told: object) -> dict[int, float]:
        if not isinstance(told, dict):
            raise UntoldError(self.server.asked, "it tells no likeliest tokens", SERVE)
        return {self._read_token(token): self._read_number(value) for token, value in told.items()}

    def _read_token(self, told: object) -> int:
        number = told
        if isinstance(told, str):
            digits = told.removeprefix("token_id:")
            number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 12 else None
        if not isinstance(number, int) or isinstance(number, bool):
            found = "it names tokens by their texts, which do not tell all of them apart"
            raise UntoldError(self.server.asked, found, SERVE)
        if not 0 <= number < self.vocabulary:
            found = f"it tells of token {number}, and the model of the files has {self.vocabulary}"
            raise self.server.fail(found, "let it serve the model of these files")
        return number

    def _read_number(self, told: object) -> float:
        if told is None:
            return math.nan
        if isinstance(told, int | float) and not isinstance(told, bool):
            with suppress(OverflowError):
                return float(told)
        raise self.server.fail(f"it tells {told!r:.40} as a log-probability", SERVE)

    def _miscounted(self, found: int, wanted: int) -> EngineError:
        return self.server.fail(f"it tells of {found} tokens where {wanted} were asked", _AS_GIVEN)
