"""What stands first on the page."""

from __future__ import annotations

from support.baselines import hold
from support.evidence import compose as compose_record
from support.evidence import judge_model, make_evidence, make_failing_evidence, make_policy, make_record
from support.many import BROKEN, make_many
from support.pages import parse_page
from support.sections import read
from sw_audit_reports.html import render_html
from sw_audit_reports.opening import describe_audited, explain_verdict, summarize_worst
from sw_audit_reports.verdicts import list_advice

from sw_audit.policy.model_policy import Waiver
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.verdict import Status, Verdict

FAILED = Verdict(
    check="weights-intact",
    model="m",
    status=Status.FAIL,
    observed=2.0,
    limit=0.0,
    because="two",
    remedy="mend `x`",
)
DOUBTED = FAILED.model_copy(update={"status": Status.INCONCLUSIVE, "remedy": None, "because": "too little text"})


def make(*verdicts: Verdict, model: str = "m") -> ModelResult:
    evidence = make_evidence(windows=8)
    identity = evidence.model.model_copy(update={"id": model})
    return evidence.model_copy(update={"model": identity, "verdicts": verdicts})


def open_page(record: Record) -> str:
    html = render_html(record)
    assert parse_page(html).mistakes == []
    first = html[html.index("<h1>") : html.index('<details class="glossary">')]
    return " ".join(parse_page(f"<main>{first}</main>").text.split())


def test_the_first_screen_tells_what_was_audited_the_verdict_its_meaning_and_what_to_do() -> None:
    words = open_page(compose_record(make(FAILED)))
    assert "A llama model of 8 decoder layers and 2,098,304 parameters" in words
    assert words.index("Fail") < words.index("A gate failed.") < words.index("What to do") < words.index("Mend")
    assert "super weight" in words


def test_a_pass_asks_for_nothing_and_a_doubt_is_called_no_pass() -> None:
    passed = make(FAILED.model_copy(update={"status": Status.PASS}))
    assert "What to do Nothing." in open_page(compose_record(passed))
    doubted = open_page(compose_record(make(DOUBTED)))
    assert "That is not a pass." in doubted
    assert "Too little text." in doubted
    skipped = make(FAILED.model_copy(update={"status": Status.SKIPPED}))
    assert "nothing could be judged" in open_page(compose_record(skipped))


def test_the_same_advice_is_given_once_for_all_models_and_of_each_only_what_decides() -> None:
    later = FAILED.model_copy(update={"check": "generation-sane", "remedy": "read"})
    record = compose_record(make(FAILED, later, model="a"), make(FAILED, model="b"), make(DOUBTED, model="c"))
    assert [(one.models, one.check, one.words) for one in list_advice(record)] == [
        (("a", "b"), "weights-intact", "mend `x`"),
        (("c",), "weights-intact", "too little text"),
    ]
    words = open_page(record)
    assert "1 more gate does not pass" in words
    assert words.count("Mend") == 1


def test_what_is_waived_asks_for_nothing_and_what_could_not_be_audited_says_why() -> None:
    waiver = Waiver(check="weights-intact", model="m", owner="me", reason="known", until="2999-01-01")
    assert list_advice(compose_record(make(FAILED.model_copy(update={"waiver": waiver})))) == []
    gone = compose_record(ModelFailure(model="gone", message="model gone: no such folder; name another"))
    assert [one.words for one in list_advice(gone)] == ["model gone: no such folder; name another"]
    assert explain_verdict(gone) == "1 model could not be audited."


def test_of_several_models_the_worst_is_summed_up() -> None:
    policy = make_policy("a", "b")
    record = compose_record(
        *(judge_model(one, policy) for one in (make(model="a"), make_failing_evidence())), policy=policy
    )
    assert read(summarize_worst(record)).startswith("Of 2 models, ")
    assert f"The worst is {make_failing_evidence().id}. " in read(summarize_worst(record))
    assert "held against" not in read(describe_audited(make_record(windows=8, items=8)))


def test_the_page_of_many_models_has_the_same_top() -> None:
    words = open_page(make_many())
    assert "and 2 more, held against" in words
    assert f"The worst is {BROKEN[0]}. Its perplexity is" in read(summarize_worst(make_many()))
    assert "What to do" in words


def test_the_most_pressing_advice_stands_first_and_three_pieces_at_most_at_the_top() -> None:
    doubted = DOUBTED.model_copy(update={"remedy": "give more text"})
    others = [make(FAILED.model_copy(update={"remedy": f"step {name}"}), model=name) for name in "bcd"]
    record = compose_record(make(doubted, model="a"), *others)
    assert [one.models for one in list_advice(record)] == [("b",), ("c",), ("d",), ("a",)]
    words = open_page(record)
    assert [name for name in "bcd" if f"Step {name}" in words] == list("bcd")
    assert "Give more text" not in words
    assert "1 more gate does not pass" in words


def test_more_parents_than_three_are_not_listed_at_the_top() -> None:
    def descend(count: int) -> str:
        models = []
        for name in "abcd"[:count]:
            known = hold(6.25).baseline
            assert known is not None
            baseline = known.model_copy(update={"name": f"base-{name}"})
            models.append(make(FAILED, model=name).model_copy(update={"baseline": baseline}))
        return read(describe_audited(compose_record(*models)))

    assert "held against the baseline base-a, the baseline base-b and the baseline base-c." in descend(3)
    assert descend(4) == "a, b, c and d."
