"""From the questions of a policy to token ids, as the parent's own chat template and tokenizer have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.decisions import OPENINGS, TOOL, YES, DecisionItem, Openings, read_decisions
from sw_audit.corpus.text import SPECIMEN
from sw_audit.files.conversations import RenderedQuestion, find_chat_template, render_questions
from sw_audit.measure.decisions import Question, Questions, tokenize_question
from sw_audit.policy.policy import Policy

_NO_TEMPLATE = "the parent has no chat template"
_SPECIMEN = "the built-in questions are English, which a model of the specimen's language does not know"


def prepare_decisions(parent: Checkpoint, policy: Policy) -> tuple[Questions, ...]:
    """Ask a parent's tokenizer and chat template for the questions of a policy, kind by kind.

    Without a chat template nobody is asked to refuse or to call a tool; whether something is right is asked in
    plain words, and so is what stands in a file of one's own.

    Raises:
        CorpusError: If the questions cannot be read.
    """
    if policy.descent.decisions is None and policy.corpus.source == SPECIMEN:
        return tuple(Questions(kind, _name_sides(sides), skipped=_SPECIMEN) for kind, sides in OPENINGS.items())
    items = read_decisions(policy)
    kinds: dict[str, list[tuple[DecisionItem, RenderedQuestion | str]]] = {}
    for item, rendered in zip(items, _render(parent, items), strict=True):
        kinds.setdefault(item.kind, []).append((item, rendered))
    return tuple(_prepare_kind(parent, kind, asked) for kind, asked in kinds.items())


def _prepare_kind(
    parent: Checkpoint, kind: str, asked: Sequence[tuple[DecisionItem, RenderedQuestion | str]]
) -> Questions:
    sides, questions = _name_sides(asked[0][0].openings), []
    for item, rendered in asked:
        if isinstance(rendered, str):
            return Questions(kind, sides, skipped=rendered)
        openings = dict(item.openings)
        if rendered.call is not None and item.kind == TOOL:
            openings[sides[0]] = (rendered.call,)
        question = tokenize_question(parent, item.name, rendered.prompt, openings, item.expected)
        if (problem := _find_fault(question, parent.maximum_positions)) is not None:
            return Questions(kind, sides, skipped=f"{item.name!r}: {problem}")
        questions.append(question)
    return Questions(kind, sides, tuple(questions))


def _name_sides(openings: Openings) -> tuple[str, str]:
    one, other = openings
    return one, other


def _render(parent: Checkpoint, items: Sequence[DecisionItem]) -> Iterator[RenderedQuestion | str]:
    template = find_chat_template(parent.tokenizer)
    if items and template is not None:
        variables = {
            key: word for key, word in parent.tokenizer.special_tokens_map.items() if isinstance(word, str)
        }
        yield from render_questions(template, variables, [(item.prompt, item.tool) for item in items])
        return
    for item in items:
        if item.kind == YES:
            yield RenderedQuestion(f"{item.prompt}\nAnswer: ")
        else:
            yield RenderedQuestion(f"{item.prompt} ") if item.own and item.kind != TOOL else _NO_TEMPLATE


def _find_fault(question: Question, maximum: int | None) -> str | None:
    first, second = question.openings
    if not all(opening for side in question.openings for opening in side):
        return "an opening is no token of the parent's tokenizer"
    if any(one[: len(other)] == other[: len(one)] for one in first for other in second):
        return "an opening of one decision begins one of the other, in the parent's tokens"
    longest = len(question.prompt) + max(len(opening) for side in question.openings for opening in side)
    if maximum is not None and longest > maximum:
        return f"it takes {longest} tokens, and the parent takes {maximum}"
    return None if question.prompt else "it has no token before the answer"
