from __future__ import annotations

import pytest
import torch
from support.checkpoints import make_tokenizer

from sw_audit.corpus.prompts import PROMPT_LENGTHS, draw_prompts
from sw_audit.corpus.protocol import list_cautions
from sw_audit.corpus.windows import Windows
from sw_audit.policy.policy import CorpusPolicy


def make_windows(rows: int, length: int, *, bos: int | None = None) -> Windows:
    """Rows that begin with BOS if there is one; every other token is the number of its row, plus 4."""
    tokens = torch.arange(4, 4 + rows).repeat_interleave(length).view(rows, length)
    if bos is not None:
        tokens[:, 0] = bos
    return Windows(tokens, torch.ones(rows, dtype=torch.int64), bos=bos)


def test_the_prompts_are_of_the_given_lengths_and_from_all_over_the_text() -> None:
    prompts = draw_prompts(make_windows(16, 40), make_tokenizer())
    assert [len(token_ids) for _, token_ids in prompts] == list(PROMPT_LENGTHS)
    assert [set(token_ids) for _, token_ids in prompts] == [{4 + row} for row in range(0, 16, 2)]


def test_bos_is_kept_and_is_no_token_of_the_text() -> None:
    tokenizer = make_tokenizer()
    bos = tokenizer.bos_token_id
    for text, token_ids in draw_prompts(make_windows(8, 40, bos=bos), tokenizer):
        assert token_ids[0] == bos
        assert text == tokenizer.decode(token_ids[1:])
    assert [len(token_ids) - 1 for _, token_ids in draw_prompts(make_windows(8, 40, bos=bos), tokenizer)] == list(
        PROMPT_LENGTHS
    )


@pytest.mark.parametrize(("rows", "length"), [(1, 40), (3, 6)])
def test_a_small_text_gives_as_many_prompts_none_longer_than_a_window(rows: int, length: int) -> None:
    prompts = draw_prompts(make_windows(rows, length), make_tokenizer())
    assert [len(token_ids) for _, token_ids in prompts] == [min(one, length) for one in PROMPT_LENGTHS]


@pytest.mark.parametrize(
    ("source", "vocabulary", "told"), [("specimen", 32_000, 1), ("specimen", 999, 0), ("wikitext", 32_000, 0)]
)
def test_a_perplexity_on_the_specimens_text_is_not_to_be_quoted_of_another_model(
    source: str, vocabulary: int, told: int
) -> None:
    cautions = list_cautions(CorpusPolicy(source=source), vocabulary)
    assert len(cautions) == told
    assert all("before quoting a perplexity" in one for one in cautions)


def test_a_text_that_leaves_nothing_to_calibrate_on_is_a_caution() -> None:
    [caution] = list_cautions(CorpusPolicy(source="mine.txt"), 32000, uncalibrated=True)
    assert "SmoothQuant" in caution
    assert len(list_cautions(CorpusPolicy(), 32000, uncalibrated=True)) == 2
