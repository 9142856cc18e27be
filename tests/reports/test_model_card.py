"""A model card's section, read back by huggingface_hub and by a parser of Markdown."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from support.descent import make_descent_evidence, make_descent_policy
from support.evidence import SUPER_WEIGHT, compose, make_evidence, make_record
from support.hostile import hostile_texts, make_hostile
from support.markdown import read, spell
from sw_audit_reports.badge import write_badge_line
from sw_audit_reports.model_card import render_model_card

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import Policy
from sw_audit.printable import printable
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status

TAGS = ["page", "h2", "h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li"]


def make_descendant() -> Record:
    policy, evidence = make_descent_policy(), make_descent_evidence()
    return compose(evidence.model_copy(update={"verdicts": judge_result(evidence, policy)}), policy=policy)


def open_card(record: Record) -> tuple[list[EvalResult], Element]:
    """Read a card as a hub does: the figures of its front matter, and the rest as Markdown."""
    card = ModelCard(render_model_card(record))
    return card.data.eval_results or [], read(card.text)


def test_a_hub_reads_each_figure_with_its_interval_limit_and_verdict() -> None:
    record = make_descendant()
    [result] = record.results
    figures, _ = open_card(record)
    assert result.unedited is not None
    assert (figures[0].metric_type, figures[0].metric_value) == ("perplexity", result.unedited.loss.perplexity)
    [ratio] = [one for one in figures if one.metric_type == "perplexity-ratio"]
    [verdict] = [one for one in result.verdicts if one.check == "perplexity-ratio"]
    assert (ratio.task_type, ratio.dataset_type) == ("text-generation", result.protocol.corpus.name)
    assert ratio.metric_value == verdict.observed
    assert ratio.metric_args is not None
    assert [ratio.metric_args[name] for name in ("low", "high", "confidence", "limit", "verdict")] == [
        verdict.low, verdict.high, 0.95, verdict.limit, verdict.status.value,
    ]  # fmt: skip


def test_the_line_that_shows_the_badge_is_there_to_be_taken_out_of_its_comment() -> None:
    record = make_record()
    card, line = render_model_card(record), write_badge_line(record)
    assert f": {line} -->\n" in card
    assert not list(read(card).iter("img"))
    assert [one.get("alt") for one in read(line).iter("img")] == ["sw-audit: failed, 2 of 4 models"]


def test_laws_are_no_figures_of_the_model() -> None:
    policy, evidence = Policy.model_validate({"model": [{"source": "specimen"}]}), make_evidence(windows=8)
    record = compose(evidence.model_copy(update={"verdicts": judge_result(evidence, policy)}), policy=policy)
    laws = {one.check for one in record.verdicts if one.level == "law" and one.observed is not None}
    assert laws
    assert not laws & {one.metric_type for one in open_card(record)[0]}


def test_the_section_has_the_gates_the_super_weights_and_what_did_not_pass() -> None:
    record = make_record(windows=8, items=8)
    _, page = open_card(record)
    shown = spell(page)
    assert f"carry the model: {SUPER_WEIGHT.address}." in shown
    gates = [one for one in record.verdicts if one.level == "gate" and one.status is not Status.SKIPPED]
    assert len(list(page.iter("td"))) == 5 * len(gates)
    held = [one for one in gates if one.status is not Status.PASS]
    assert [spell(one).partition(": ")[2] for one in page.iter("li")] == [
        " ".join(one.because.split()) for one in held
    ]
    heads = [spell(one) for one in page.iter("h3")]
    assert len(heads) == len(record.models)
    assert heads[-1] == f"{record.failures[0].id}: not audited"


def test_where_nothing_was_measured_there_is_no_front_matter() -> None:
    text = render_model_card(compose(ModelFailure(model="gone", message="no such file")))
    assert text.startswith("## Weights audited with sw-audit")
    assert "no such file" in text


@settings(deadline=None, max_examples=40)
@given(hostile_texts())
def test_whatever_a_record_holds_neither_the_front_matter_nor_the_section_is_left(text: str) -> None:
    card = ModelCard(render_model_card(make_hostile(text)))
    name, figures = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == printable(text)
    assert [one.metric_type for one in figures].count("perplexity-ratio") == 1
    page = read(card.text)
    assert {element.tag for element in page.iter()} <= set(TAGS)
    assert len(list(page.iter("h3"))) == 2
    assert len(list(page.iter("td"))) == 3 * 5
