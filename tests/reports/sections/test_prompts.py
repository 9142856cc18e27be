"""The section on other prompts: what holds on them, and the one that breaks it."""

from __future__ import annotations

from support.evidence import (
    SUPER_ACTIVATION,
    make_evidence,
    make_location,
    make_none_evidence,
    make_persistence,
    make_search,
)
from support.sections import BuiltSection, build_section, make_context, render_example

from sw_audit.record.location import PromptSearch
from sw_audit.record.record import ModelResult

BREAKING = "The super activation on the prompt that breaks it"
FOLLOWED = "The super activations on other prompts"


def build(evidence: ModelResult) -> BuiltSection:
    return build_section("prompts", make_context(evidence))


def test_what_the_channel_holds_on_all_prompts_is_told_with_the_search_that_found_nothing() -> None:
    section = build(make_evidence(prompt_search=PromptSearch(examples=50, tolerance=0.3)))
    # Within layers 1 to 6, on prompts of five or seven tokens, BOS included.
    assert section.text == (
        "On 3 prompts of 5 to 7 tokens channel 37 holds -411 to -413.4 in layers 1 to 6. None of up to 50 others "
        "(tokens at random, runs of the vocabulary, one token over and over) breaks this."
    )
    assert section.terms == {}
    assert not section.has_table(BREAKING)
    assert section.rows(FOLLOWED)[0] == ["the mill stands by the river", "7", "37", "0", "-411", "-413.4"]


def test_the_prompt_that_breaks_it_stands_with_its_tokens_and_its_values_layer_by_layer() -> None:
    search = make_search((0.0, -400.0, -300.0, None, -100.0, -90.0, -80.0, 0.0), peaks=(3, 0, 0, 1, 1, 1, 1, 4))
    section = build(make_evidence(prompt_search=search))
    assert section.text.endswith("found one that breaks this:")
    assert section.terms == {
        "Shortest prompt that breaks it": "zat",
        "Its tokens": "1, 61 (2 tokens)",
        "What breaks": "Channel 37 is lost.",
    }
    rows = section.rows(BREAKING)
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert rows[0][1:] == ["37", "-412.5", "-400", "0"]
    assert rows[2][1:] == ["37", "-412.5", "not finite", "1"]


def test_a_prompt_of_tokens_without_text_is_told_by_its_tokens() -> None:
    search = make_search((0.0,) * 8)
    assert search.found is not None
    blank = search.model_copy(update={"found": search.found.model_copy(update={"prompt": "\n"})})
    terms = build(make_evidence(prompt_search=blank)).terms
    assert list(terms.values())[:2] == ["no visible text", "1, 61 (2 tokens)"]


def test_a_search_that_was_not_made_or_not_ended_says_why() -> None:
    missing = PromptSearch(examples=0, tolerance=0.3, omitted="hypothesis is not installed")
    assert build(make_evidence(prompt_search=missing)).text.endswith(
        "No other prompt was tried: hypothesis is not installed."
    )
    stopped = PromptSearch(examples=50, tolerance=0.3, stopped="layer 3 is not finite")
    assert build(make_evidence(prompt_search=stopped)).text.endswith("ended on one where layer 3 is not finite.")


def test_a_channel_that_moves_and_one_that_is_nowhere_finite_are_listed_as_they_are() -> None:
    moved = make_persistence(peaks=(3, 0, 0, 2, 2, 0, 0, 4), prompts=("a b",))
    broken = make_persistence(values=(None,) * 8, prompts=("c d",))
    section = build(make_evidence(persistence=(*moved, *broken)))
    assert "On 2 prompts of 3 tokens" in section.text
    first, second = section.rows(FOLLOWED)
    assert first[3] == "0, 2"
    assert second[4:] == ["not finite", "not finite"]


def test_each_of_several_channels_is_told() -> None:
    other = SUPER_ACTIVATION.model_copy(update={"channel": 5, "value": 10.0})
    location = make_location().model_copy(update={"super_activations": (SUPER_ACTIVATION, other)})
    more = tuple(trace.model_copy(update={"channel": 5}) for trace in make_persistence((0.0, *[10.0] * 6, 0.0)))
    text = build(make_evidence(location=location, persistence=(*make_persistence(), *more))).text
    assert "channel 37 holds" in text
    assert "channel 5 holds 10 in layers 1 to 6" in text


def test_where_nothing_was_followed_there_is_no_such_section() -> None:
    assert build(make_none_evidence()).elements == []
    assert build(make_evidence(persistence=())).elements == []


def test_the_page_shows_the_prompt_that_breaks_it_and_the_card_says_so_too() -> None:
    page = render_example()[1]
    text = " ".join(page.text.split())
    assert page.get("model-2-prompts").text == "On other prompts"
    assert "Shortest prompt that breaks it zat" in text
    assert "channel 37 is lost on the prompt 'zat' (2 tokens), the shortest found to break the law" in text
