"""What a chat template makes of questions: the text before the answer, and how a call of a tool begins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sw_audit.files.templates import render

_ANSWER = "Answer0Qz"
_NAME = "tool0qz"
"""What stands for the answer, and for the name of a tool that is called: words that no template knows."""


@dataclass(frozen=True)
class RenderedQuestion:
    """What comes before an answer, and what the call of a tool begins with.

    Attributes:
        prompt: What comes before the answer.
        call: How the call of the tool that is offered begins, up to its name; `None` where the template has no
            words for it.
    """

    prompt: str
    call: str | None = None


def find_chat_template(tokenizer: Any) -> str | None:
    """Return the chat template of a tokenizer, of several the default one; `None` if it has none."""
    known = getattr(tokenizer, "chat_template", None)
    found = known.get("default") if isinstance(known, Mapping) else known
    return found if isinstance(found, str) and found else None


def render_questions(
    template: str, variables: Mapping[str, str], asked: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[RenderedQuestion | str]:
    """Render what a user says, each with the tool that is offered, if any, up to where an answer begins.

    That is found by an answer that is put there, so what a template puts before answers, such as an empty thought,
    is part of the prompt. A tool that the template does not show is told of in what the user says. See `render`
    for what is done about templates that do harm.

    Args:
        template: The chat template.
        variables: Special tokens by the names that templates know them by.
        asked: What a user says, and the tool's name, description and parameters; empty where there is none.

    Returns:
        Per question what was made of it, or why nothing was, a clause.
    """
    conversations = [turns for said, tool in asked for turns in _list_conversations(said, tool)]
    rendered = iter(render(template, variables, conversations))
    return [_cut([next(rendered) for _ in _list_conversations(said, tool)], tool) for said, tool in asked]


def _list_conversations(said: str, tool: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    user, answer = {"role": "user", "content": said}, {"role": "assistant", "content": _ANSWER}
    if not tool:
        yield {"messages": [user, answer]}
        return
    offered = [_describe(tool)]
    call = {"type": "function", "id": "abcdefghi", "function": {"name": _NAME, "arguments": {}}}
    yield {"messages": [{"role": "user", "content": _tell(said, tool)}, answer]}
    yield {"messages": [user, answer], "tools": offered}
    yield {"messages": [user, {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": offered}


def _describe(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {name: {"type": "string", "description": words} for name, words in tool["parameters"].items()}
    schema = {"type": "object", "properties": parameters, "required": list(parameters)}
    function = {"name": tool["name"], "description": tool["description"], "parameters": schema}
    return {"type": "function", "function": function}


def _tell(said: str, tool: Mapping[str, Any]) -> str:
    return (
        f"Tool: {json.dumps(dict(tool), ensure_ascii=False)}\n"
        f'To use it, answer {{"name": ..., "arguments": ...}} and nothing else.\n\n{said}'
    )


def _cut(rendered: Sequence[tuple[bool, str]], tool: Mapping[str, Any]) -> RenderedQuestion | str:
    prompts = [text.rpartition(_ANSWER)[0] if done else "" for done, text in rendered[:2]]
    if tool and prompts[1] and tool["name"] in prompts[1]:
        done, text = rendered[2]
        begun, named, _ = text.partition(_NAME) if done else ("", "", "")
        same = prompts[1].rstrip(" ")
        call = begun[len(same) :].strip(" ") if named and begun.startswith(same) else ""
        return RenderedQuestion(prompts[1], call or None)
    if prompts[0]:
        return RenderedQuestion(prompts[0])
    done, text = rendered[0]
    return (
        "its chat template leaves out what is answered" if done else f"its chat template ends in an error ({text})"
    )
