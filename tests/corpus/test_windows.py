from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import make_tokenizer

from sw_audit.corpus.text import Text, read_corpus
from sw_audit.corpus.windows import (
    MORE,
    PROMPT_LENGTHS,
    SHORT,
    Windows,
    cut_calibration,
    cut_windows,
    draw_prompts,
    window_corpus,
)
from sw_audit.errors import CorpusError
from sw_audit.policy.policy import CorpusPolicy
from sw_audit.record.identity import CorpusIdentity

BOS = -7
# Length of the text, window, stride, BOS, limit.
Cut = tuple[int, int, int | None, int | None, int]


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    window = draw(st.integers(2, 12))
    length = draw(st.integers(window, 60))
    stride = draw(st.none() | st.integers(1, window))
    return length, window, stride, draw(st.sampled_from([None, BOS])), draw(st.integers(1, 40))


def _list_scored(windows: Windows) -> list[int]:
    rows = zip(windows.token_ids.tolist(), windows.first_scored.tolist(), strict=True)
    return [token for row, first in rows for token in row[first:]]


@given(cuts())
def test_every_token_of_the_used_text_is_scored_exactly_once(
    cut: Cut,
) -> None:
    length, window, stride, bos, limit = cut
    # Each token is its own position.
    windows = cut_windows(range(length), window, stride, bos, limit)
    scored = _list_scored(windows)
    used = int(windows.token_ids.max()) + 1
    assert scored == list(range(0 if bos is not None else 1, used))
    assert windows.scored == len(scored)
    if len(windows.token_ids) < limit:
        assert used == length


def test_a_part_of_windows_is_those_windows() -> None:
    whole = cut_windows(range(50), 8, None, BOS, 6)
    parts = [whole.part(0, 2), whole.part(2, 6)]
    assert torch.equal(torch.cat([part.token_ids for part in parts]), whole.token_ids)
    assert torch.equal(torch.cat([part.first_scored for part in parts]), whole.first_scored)
    assert {part.bos for part in parts} == {BOS}


@given(cuts())
def test_rows_are_equally_long_stretches_of_the_text(cut: Cut) -> None:
    length, window, stride, bos, limit = cut
    windows = cut_windows(range(length), window, stride, bos, limit)
    count, width = windows.token_ids.shape
    assert width == window
    assert 1 <= count <= limit
    assert windows.token_ids.dtype == windows.first_scored.dtype == torch.int64
    content = windows.token_ids[:, 1:] if bos is not None else windows.token_ids
    if bos is not None:
        assert (windows.token_ids[:, 0] == bos).all()
    assert (content[:, 1:] - content[:, :-1] == 1).all()
    # Something comes before every token that is scored, and every row scores one.
    assert (windows.first_scored >= 1).all()
    assert (windows.first_scored < window).all()


@given(cuts())
def test_all_rows_but_the_last_move_on_by_the_stride(cut: Cut) -> None:
    length, window, stride, bos, limit = cut
    windows = cut_windows(range(length), window, stride, bos, limit)
    ends = windows.token_ids[:, -1]
    moved = ends[1:] - ends[:-1]
    expected = min(stride or window, window - 1)
    assert windows.stride == expected
    assert (moved[:-1] == expected).all()
    assert (moved <= expected).all()
    assert (moved == window - windows.first_scored[1:]).all()


def test_windows_by_hand() -> None:
    windows = cut_windows(range(10), 5, 3, BOS, 9)
    assert windows.token_ids.tolist() == [[BOS, 0, 1, 2, 3], [BOS, 3, 4, 5, 6], [BOS, 6, 7, 8, 9]]
    assert windows.first_scored.tolist() == [1, 2, 2]
    windows = cut_windows(range(10), 5, None, None, 9)
    assert windows.token_ids.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [5, 6, 7, 8, 9]]
    assert windows.first_scored.tolist() == [1, 1, 4]


def test_the_unigram_entropy_is_that_of_the_scored_tokens_and_of_no_others() -> None:
    # BOS is not scored: of eight tokens a quarter is 2, three quarters are 1.
    windows = cut_windows([1, 1, 1, 2, 1, 1, 1, 2], 5, None, BOS, 2)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert windows.unigram_nats == pytest.approx(entropy + 1 / 16)
    assert cut_windows([3] * 8, 5, None, None, 8).unigram_nats == 0.0


@pytest.mark.parametrize(("length", "bos"), [(0, None), (4, None), (3, 1)])
def test_a_text_shorter_than_one_window_is_one_clear_line(length: int, bos: int | None) -> None:
    with pytest.raises(
        CorpusError, match=f"windows of 5 tokens: the text has only {length} tokens; give a longer"
    ):
        cut_windows(range(length), 5, None, bos, 4)
    assert len(cut_windows(range(length + 1 if length else 5), 5, None, bos, 4).token_ids) == 1


@pytest.mark.parametrize(("window", "stride", "limit"), [(1, None, 3), (5, 0, 3), (5, None, 0)])
def test_sizes_that_mean_nothing_are_refused(window: int, stride: int | None, limit: int) -> None:
    with pytest.raises(ValueError, match="window"):
        cut_windows(range(10), window, stride, None, limit)


def _text(content: str, natural_window: int | None = None) -> Text:
    return Text(CorpusIdentity(name="fable", sha256="0" * 64, characters=len(content)), content, natural_window)


FABLE = "the fox sang , the owl slept . " * 40


def test_the_window_is_what_is_asked_else_the_texts_else_the_models() -> None:
    tokenizer = make_tokenizer()

    def measure(asked: int | None, natural: int | None, maximum: int | None) -> int:
        policy = CorpusPolicy(source="fable", window=asked)
        return window_corpus(_text(FABLE * 8, natural), tokenizer, policy, maximum, 1).token_ids.shape[1]

    assert measure(30, 20, 40) == 30
    assert measure(None, 20, 40) == 20
    assert measure(None, 50, 40) == 40
    assert measure(None, None, 40) == 40
    assert measure(None, None, 100_000) == measure(None, None, None) == 2048
    with pytest.raises(CorpusError, match="windows of 41 tokens, but the model takes 40 at most; set"):
        measure(41, None, 40)


def test_a_stride_of_the_whole_window_means_that_rows_do_not_overlap() -> None:
    tokenizer = make_tokenizer()
    whole = window_corpus(_text(FABLE), tokenizer, CorpusPolicy(source="fable", window=9, stride=9), 512, 1)
    default = window_corpus(_text(FABLE), tokenizer, CorpusPolicy(source="fable", window=9), 512, 1)
    assert torch.equal(whole.token_ids, default.token_ids)
    assert whole.stride == 8


def test_a_short_text_is_one_clear_line_that_names_the_corpus() -> None:
    with pytest.raises(CorpusError) as caught:
        window_corpus(_text("the fox"), make_tokenizer(), CorpusPolicy(source="fable", window=9), 512, 1)
    assert str(caught.value).startswith("corpus 'fable', windows of 9 tokens: the text has only 2 tokens; ")


def test_of_a_long_text_only_the_beginning_is_tokenized() -> None:
    tokenizer = make_tokenizer()
    seen: list[int] = []

    class Watched:
        bos_token_id = tokenizer.bos_token_id

        def __call__(self, text: str, **options: object) -> object:
            seen.append(len(text))
            return tokenizer(text, **options)

    policy = CorpusPolicy(source="fable", window=9, windows=4)
    windows = window_corpus(_text(FABLE * 1000), Watched(), policy, 512, 1)
    assert sum(seen) < 1000
    complete = cut_windows([tokenizer.get_vocab()[word] for word in FABLE.split()], 9, None, 1, 4)
    assert torch.equal(windows.token_ids, complete.token_ids)
    # Long words: the first guess at the length is too short.
    long = _text("supercalifragilistic " * 200)
    assert len(window_corpus(long, tokenizer, policy, 512, 1).token_ids) == 4


def test_tokenizing_beyond_the_tokenizers_own_limit_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 16
    window_corpus(_text(FABLE), tokenizer, CorpusPolicy(source="fable", window=9), 512, 1)
    assert capfd.readouterr() == ("", "")


def test_the_specimens_windows_are_its_stories() -> None:
    text = read_corpus(CorpusPolicy(source="specimen"))
    lines = text.text.splitlines()
    words = tuple(dict.fromkeys(text.text.split()))
    tokenizer = make_tokenizer(words=words)
    windows = window_corpus(text, tokenizer, CorpusPolicy(source="specimen", windows=5), 512, 1)
    assert [tokenizer.decode(row[1:]).split() for row in windows.token_ids] == [line.split() for line in lines[:5]]
    assert (windows.first_scored == 1).all()


class Counting:
    """A tokenizer whose tokens are the numbers that a text consists of."""

    def __init__(self, bos: int | None) -> None:
        self.bos_token_id = bos

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


def count_to(length: int) -> Text:
    text = " ".join(str(number) for number in range(length))
    identity = CorpusIdentity(name="numbers", sha256="0" * 64, characters=len(text))
    return Text(text=text, identity=identity, natural_window=None)


@given(cut=cuts(), limit=st.integers(0, 6))
def test_what_is_calibrated_on_follows_what_is_scored_and_shares_no_token_with_it(cut: Cut, limit: int) -> None:
    length, window, stride, bos, count = cut
    windows = cut_windows(range(length), window, stride, bos, count)
    calibration = cut_calibration(count_to(length), Counting(bos), windows, limit)
    used = int(windows.token_ids.max()) + 1
    content = window - (bos is not None)
    whole = min((length - used) // content, limit)
    if calibration is None:
        assert whole == 0
        return
    assert calibration.token_ids.shape == (whole, window)
    rows = calibration.token_ids[:, 1:] if bos is not None else calibration.token_ids
    assert rows.flatten().tolist() == list(range(used, used + whole * content))
    if bos is not None:
        assert set(calibration.token_ids[:, 0].tolist()) == {bos}


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
    assert [len(token_ids) for _, token_ids in prompts] == [min(limit, length) for limit in PROMPT_LENGTHS]


@pytest.mark.parametrize("bos", [BOS, None])
@pytest.mark.parametrize(
    ("length", "count"), [(129 * 9, 4), (129 * 5, 4), (129 * 4 + 7, 3), (129 * 2 + 7, 2), (140, 1)]
)
def test_short_windows_are_beginnings_of_long_ones_and_leave_some_to_calibrate_on(
    bos: int | None, length: int, count: int
) -> None:
    # Two long windows of 130 tokens are asked for, one is reserved, so four short ones at most; two at least.
    corpus = CorpusPolicy(source="numbers", window=130, windows=2)
    text, tokenizer = count_to(length + 1), Counting(bos)
    windows = window_corpus(text, tokenizer, corpus, None, bos, short=True, reserved=1)
    content = SHORT - (bos is not None)
    begins = [129 * number for number in range(count)]
    rows = [list(range(begin, begin + content)) for begin in begins]
    assert windows.token_ids[:, bos is not None :].tolist() == rows
    assert windows.first_scored.tolist() == [1] * count
    assert (windows.stride, windows.bos) == (129, bos)
    calibration = cut_calibration(text, tokenizer, windows, 1)
    if length >= 129 * (count + 1):
        assert calibration is not None
        begin = 129 * count
        assert calibration.token_ids[:, bos is not None :].tolist() == [list(range(begin, begin + content))]


def test_short_windows_of_much_text_are_so_many_times_as_many() -> None:
    corpus = CorpusPolicy(source="numbers", window=1000, windows=2)
    windows = window_corpus(count_to(20_000), Counting(BOS), corpus, None, BOS, short=True, reserved=3)
    assert windows.token_ids.shape == (2 * MORE, SHORT)


def test_windows_that_are_short_already_stay_as_they_are() -> None:
    corpus = CorpusPolicy(source="numbers", window=SHORT, windows=3, stride=20)
    text, tokenizer = count_to(500), Counting(BOS)
    whole, short = (window_corpus(text, tokenizer, corpus, None, BOS, short=short) for short in (False, True))
    assert torch.equal(whole.token_ids, short.token_ids)
    assert torch.equal(whole.first_scored, short.first_scored)
