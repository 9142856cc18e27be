"""A prompt ends where a template puts the answer; a tool is offered as the template has it, or in words."""

from __future__ import annotations

import pytest

from sw_audit.files.conversations import RenderedQuestion, find_chat_template, render_questions

TURNS = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS = (
    "{% if tools %}[{% for tool in tools %}{{ tool.function.name }}: {{ tool.function.description }}{% endfor %}]"
    "{% endif %}{% for message in messages %}<{{ message.role }}>\n{% if message.tool_calls %}"
    '<call>{"name": "{{ message.tool_calls[0].function.name }}"}</call>'
    "{% else %}{{ message.content }}{% endif %}</s>{% endfor %}"
)
ADD = {"name": "add", "description": "Adds two numbers.", "parameters": {"a": "One.", "b": "Other."}}


def test_a_prompt_ends_where_the_answer_begins_with_whatever_the_template_puts_there() -> None:
    thinking = TURNS.replace(
        "{{ message.content }}", "{% if message.role != 'user' %}<think></think>\n{% endif %}{{ message.content }}"
    )
    plain, thought = (render_questions(template, {}, [("Hello", {})])[0] for template in (TURNS, thinking))
    assert plain == RenderedQuestion("<user>Hello</s><assistant>")
    assert thought == RenderedQuestion("<user>Hello</s><assistant><think></think>\n")


def test_a_tool_is_offered_by_the_template_and_its_call_begins_as_the_template_writes_it() -> None:
    [rendered] = render_questions(TOOLS, {}, [("What is 1 + 1?", ADD)])
    assert rendered == RenderedQuestion(
        "[add: Adds two numbers.]<user>\nWhat is 1 + 1?</s><assistant>\n", '<call>{"name": "'
    )


def test_where_the_template_shows_no_tools_the_user_tells_of_them() -> None:
    told, plain = render_questions(TURNS, {}, [("What is 1 + 1?", ADD), ("Hello", {})])
    assert isinstance(told, RenderedQuestion)
    assert told.call is None
    assert told.prompt.startswith('<user>Tool: {"name": "add"')
    assert told.prompt.endswith("\n\nWhat is 1 + 1?</s><assistant>")
    assert plain == RenderedQuestion("<user>Hello</s><assistant>")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no') }}", "ends in an error"),
        ("{% for message in messages %}", "ends in an error"),
        ("nothing", "leaves out what is answered"),
        ("{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}", "ends in an error"),
    ],
)
def test_a_template_that_gives_no_prompt_is_told_and_ends(
    monkeypatch: pytest.MonkeyPatch, template: str, said: str
) -> None:
    monkeypatch.setattr("sw_audit.files.rendering.SECONDS", 3)
    [rendered] = render_questions(template, {}, [("Hello", {})])
    assert isinstance(rendered, str)
    assert said in rendered


def test_of_several_templates_the_default_one_is_taken() -> None:
    class Known:
        chat_template: object = None

    tokenizer = Known()
    assert find_chat_template(tokenizer) is None
    tokenizer.chat_template = {"tool_use": "a", "default": "b"}
    assert find_chat_template(tokenizer) == "b"
    tokenizer.chat_template = "c"
    assert find_chat_template(tokenizer) == "c"
