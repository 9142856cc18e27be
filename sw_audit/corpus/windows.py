"""Windows over a text, in which every token is scored once, and prompts taken from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from sw_audit.corpus.text import Text
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy

SHORT = 64
"""Tokens of the short windows in which text is measured step by step."""
MORE = 4
"""So many times as many short windows as long ones, at most; the text between them is tokenized all the same."""
# Longer windows cost memory and hardly change a perplexity.
_LONGEST = 2048
# Characters per token to begin with when only the beginning of a long text is needed.
_GENEROUS = 8
PROMPT_LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)
"""Tokens of the text in each prompt, BOS not counted: from a single word to more than a sentence."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows over a text, all of one length.

    Attributes:
        token_ids: int64 [windows, window].
        first_scored: int64 [windows]; index in the row of the first token that is scored. It and everything
            after it is predicted from the tokens before it, so a row scores `window - first_scored` tokens.
        stride: New tokens per window as cut; `None` if unknown.
        bos: The token that every row begins with, if any.
    """

    token_ids: torch.Tensor
    first_scored: torch.Tensor
    stride: int | None = None
    bos: int | None = None

    @property
    def scored(self) -> int:
        """How many tokens are scored in all."""
        return int(self.token_ids.shape[1] * self.token_ids.shape[0] - self.first_scored.sum())

    def part(self, begin: int, end: int) -> Windows:
        """Return some of the windows, from number `begin` to before `end`."""
        return Windows(self.token_ids[begin:end], self.first_scored[begin:end], self.stride, self.bos)

    @property
    def unigram_nats(self) -> float:
        """Entropy of the scored tokens by their frequencies alone, nats per token.

        Few tokens show too few of the rare ones, so (kinds - 1) / (2 tokens) is added (Miller 1955).
        """
        places = torch.arange(self.token_ids.shape[1])
        scored = self.token_ids[places >= self.first_scored[:, None]]
        counts = torch.bincount(scored).double()
        counts = counts[counts > 0]
        shares = counts / counts.sum()
        return float(-(shares * shares.log()).sum() + (len(counts) - 1) / (2 * counts.sum()))


def cut_windows(token_ids: Sequence[int], window: int, stride: int | None, bos: int | None, limit: int) -> Windows:
    """Cut a text into rows of equal length; every token of the text that is used is scored exactly once.

    With BOS a row is BOS and `window - 1` tokens of the text. Without it, a row is `window` tokens, and the
    very first token of the text is scored nowhere, for nothing comes before it. Each row moves on by
    `stride` tokens, and these are scored; the tokens before them are context. The last row ends where the
    text ends: it moves on by less, and scores less, instead of being shorter.

    Args:
        token_ids: The text, without special tokens.
        window: Tokens per row, BOS included; at least 2.
        stride: New tokens per row, at most `window - 1`; more, or `None`, means that rows do not overlap (but
            for the one token of context that a row without BOS needs).
        bos: Id of the token that every row begins with, if any.
        limit: At most so many rows; the text that is used ends with the last of them.

    Raises:
        CorpusError: If the text is shorter than one window.
        ValueError: If window, stride or limit is too small to mean anything.
    """
    if window < 2 or limit < 1 or (stride is not None and stride < 1):
        raise ValueError(f"window {window}, stride {stride}, limit {limit}")
    lead = 0 if bos is None else 1
    content = window - lead
    if len(token_ids) < content:
        raise CorpusError(
            f"windows of {window} tokens",
            f"the text has only {len(token_ids)} tokens",
            "give a longer text, or a smaller window in corpus.window",
        )
    step = min(stride or window, window - 1)
    ends = [content]
    while ends[-1] < len(token_ids) and len(ends) < limit:
        ends.append(min(ends[-1] + step, len(token_ids)))
    rows = [[*([] if bos is None else [bos]), *token_ids[end - content : end]] for end in ends]
    new = [end - previous for previous, end in pairwise(ends)]
    return Windows(
        token_ids=torch.tensor(rows, dtype=torch.int64),
        # Of the first row everything counts that has something before it.
        first_scored=torch.tensor([1, *(window - count for count in new)], dtype=torch.int64),
        stride=step,
        bos=bos,
    )


def window_corpus(
    text: Text,
    tokenizer: Any,
    corpus: CorpusPolicy,
    maximum: int | None,
    bos: int | None,
    *,
    short: bool = False,
    reserved: int = 0,
) -> Windows:
    """Tokenize a text and cut it into windows, each with the token `bos` in front if there is one.

    `maximum` is the longest sequence that the model can take, if it says so. With `short` only the beginning of
    each window is taken, `SHORT` tokens: cut out of the middle they would be texts that no model is used on. There
    are up to `MORE` times as many of them, as far as the text gives them and leaves `reserved` windows.

    Raises:
        CorpusError: If the window is longer than the model can take, or the text is shorter than one window.
    """
    asked = f"corpus {corpus.source!r}"
    longest = min(maximum or _LONGEST, _LONGEST)
    window = corpus.window or min(text.natural_window or longest, longest)
    if maximum is not None and window > maximum:
        problem = f"windows of {window} tokens, but the model takes {maximum} at most"
        raise CorpusError(asked, problem, f"set corpus.window to {maximum} or less")
    limit = corpus.windows or text.natural_windows
    short = short and window > SHORT
    most, stride = (limit * min(MORE, window // SHORT), None) if short else (limit, corpus.stride)
    beyond = reserved if short else 0
    needed = window + (most + beyond - 1) * min(stride or window, window - 1)
    try:
        token_ids = _tokenize(text.text, tokenizer, needed)
        windows = cut_windows(token_ids, window, stride, bos, most + beyond)
    except CorpusError as error:
        raise CorpusError(f"{asked}, {error.asked}", error.found, error.remedy) from error
    return _take_beginnings(windows, limit, most, beyond) if short else windows


def _take_beginnings(windows: Windows, least: int, most: int, beyond: int) -> Windows:
    """Take the beginnings of windows that do not overlap, and leave some windows if more than the least remain."""
    whole = int((windows.first_scored == 1).sum())  # the last one may have been shifted back
    count = min(most, max(min(least, whole), whole - beyond))
    return Windows(
        windows.token_ids[:count, :SHORT], torch.ones(count, dtype=torch.int64), windows.stride, windows.bos
    )


def cut_calibration(text: Text, tokenizer: Any, windows: Windows, limit: int) -> Windows | None:
    """Cut further windows of a text, after those that are scored, to calibrate on.

    They are as long, share no token with the scored ones and do not overlap; where the scored ones are beginnings
    of longer windows, so are they. `None` if less than one is left.
    """
    content = windows.token_ids.shape[1] - (windows.bos is not None)
    step = max(content, windows.stride or 0)
    # Without BOS, the first token of the text is used and scored nowhere.
    used = len(windows.token_ids) * step if step > content else windows.scored + (windows.bos is None)
    rest = _tokenize(text.text, tokenizer, used + limit * step)[used:]
    whole = min(len(rest) // step, limit)
    if not whole:
        return None
    rows = torch.tensor(rest[: whole * step], dtype=torch.int64).view(whole, step)[:, :content]
    if windows.bos is not None:
        rows = torch.cat([torch.full((whole, 1), windows.bos), rows], dim=1)
    return Windows(rows, torch.ones(whole, dtype=torch.int64), step, windows.bos)


def window_prompt(token_ids: Sequence[int]) -> Windows:
    """Make one window of a prompt of two tokens or more, to calibrate on where there is no text."""
    return Windows(torch.tensor([list(token_ids)], dtype=torch.int64), torch.ones(1, dtype=torch.int64))


def draw_prompts(windows: Windows, tokenizer: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Take one prompt of each length, each from another place of the text.

    A window shorter than a prompt is taken whole. Each prompt is its text, without special tokens, and its token
    ids, BOS included if the windows have it.
    """
    rows = windows.token_ids  # [windows, window]
    places = [number * len(rows) // len(PROMPT_LENGTHS) for number in range(len(PROMPT_LENGTHS))]
    cut = [
        tuple(rows[place].tolist()[: length + (windows.bos is not None)])
        for place, length in zip(places, PROMPT_LENGTHS, strict=True)
    ]
    return tuple((tokenizer.decode(token_ids, skip_special_tokens=True), token_ids) for token_ids in cut)


def _tokenize(text: str, tokenizer: Any, needed: int) -> list[int]:
    """Tokenize as much of a text as gives the tokens that are needed; no special token is added."""
    length = needed * _GENEROUS
    while True:
        used = text[: _end_of_word(text, length)]
        # Called on its parts, a fast tokenizer warns of no length.
        try:
            token_ids: list[int] = tokenizer(
                used, add_special_tokens=False, truncation=False, padding=False, verbose=False
            )["input_ids"]
        except Exception as error:  # tokenizers raise bare exceptions, such as for an unknown token that is none
            found = f"the model's tokenizer cannot read it ({error})"
            remedy = "repair or replace the tokenizer, or give another text"
            raise CorpusError("the text", found, remedy) from error
        if len(token_ids) >= needed or len(used) == len(text):
            return token_ids
        length *= 2


def _end_of_word(text: str, length: int) -> int:
    """Return the end of the word at a position, so that no word is cut in two."""
    while length < len(text) and not text[length].isspace():
        length += 1
    return length
