"""Prompts taken from a text: short beginnings of windows, spread over all of it."""

from __future__ import annotations

from typing import Any

from sw_audit.corpus.windows import Windows

PROMPT_LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)
"""Tokens of the text in each prompt, BOS not counted: from a single word to more than a sentence."""


def draw_prompts(windows: Windows, tokenizer: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Take one prompt of each length, each from another place of the text.

    Args:
        windows: The text, cut; a window shorter than a prompt is taken whole.
        tokenizer: What it was cut with.

    Returns:
        Each prompt as its text, without special tokens, and its token ids, BOS included if the windows have it.
    """
    rows = windows.token_ids  # [windows, window]
    places = [number * len(rows) // len(PROMPT_LENGTHS) for number in range(len(PROMPT_LENGTHS))]
    cut = [
        tuple(rows[place].tolist()[: length + (windows.bos is not None)])
        for place, length in zip(places, PROMPT_LENGTHS, strict=True)
    ]
    return tuple((tokenizer.decode(token_ids, skip_special_tokens=True), token_ids) for token_ids in cut)
