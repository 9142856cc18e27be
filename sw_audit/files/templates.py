"""Two chat templates beside each other: what both make of fixed conversations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sw_audit.checkpoint.surroundings import list_constants
from sw_audit.files import rendering
from sw_audit.files.tokenization import Tokenizer, count_alike, quote
from sw_audit.record.files import ChangedSetting

_SYSTEM = {"role": "system", "content": "You are brief."}
_USER = {"role": "user", "content": "  What is 2 + 2?\nAnd <b>why</b>? "}
_ANSWER = {"role": "assistant", "content": "It is 4."}
_MORE = {"role": "user", "content": "Größer, bitte. 谢谢 😀"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number", "description": "One."}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
}
_CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
_PARTS = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": [_USER], "add_generation_prompt": True},
    {"messages": [_USER], "add_generation_prompt": True, "enable_thinking": False},
    {"messages": [_SYSTEM, _USER], "add_generation_prompt": True},
    {"messages": [_SYSTEM, _USER, _ANSWER], "add_generation_prompt": False},
    {"messages": [_USER, _ANSWER, _MORE], "add_generation_prompt": True},
    {"messages": [_SYSTEM, _USER], "tools": [_TOOL], "add_generation_prompt": True},
    {
        "messages": [
            _USER,
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "4"},
        ],
        "tools": [_TOOL],
        "add_generation_prompt": True,
    },
    {"messages": [_PARTS], "add_generation_prompt": True},
)
"""What a template is given: one turn and several, with a system's turn, with tools, and in parts."""
_KEY = "chat_template"
_SHOWN = 80
# So many words that either template looks for are tried as what a user says.
_MOST_WORDS = 64


def list_templates(side: Tokenizer) -> dict[str, str]:
    """Return the chat templates of a model by their names; the one without a name is `default`."""
    if side.metadata:
        name = f"tokenizer.{_KEY}"
        return {
            key.removeprefix(name).removeprefix(".") or "default": str(value)
            for key, value in side.metadata.items()
            if key == name or key.startswith(f"{name}.")
        }
    known = getattr(side.tokenizer, _KEY, None)
    found = {str(key): str(value) for key, value in known.items()} if isinstance(known, Mapping) else {}
    if isinstance(known, str):
        found["default"] = known
    if not found and side.folder.holds(f"{_KEY}.json"):  # what a processor keeps, of a model that sees
        stored = side.folder.read_json(f"{_KEY}.json").get(_KEY)
        found = {"default": stored} if isinstance(stored, str) else {}
    return found


def compare_templates(ours: Tokenizer, theirs: Tokenizer) -> Iterator[ChangedSetting]:
    """Yield how a descendant's chat templates differ from its parent's."""
    mine, its = list_templates(ours), list_templates(theirs)
    for name in sorted(mine.keys() | its.keys()):
        key = _KEY if name == "default" else f"{_KEY}.{name}"
        if name not in mine or name not in its:
            # An old GGUF file has no word for it.
            lacking = theirs if name not in its else ours
            unsaid = lacking is theirs and bool(theirs.metadata)
            words = [quote(side[name], _SHOWN) if name in side else None for side in (its, mine)]
            effect = "none" if unsaid else "input"
            yield ChangedSetting(key=key, parent=words[0], value=words[1], effect=effect)
            continue
        variables = [_list_variables(side) for side in (ours, theirs)]
        if mine[name] == its[name] and variables[0] == variables[1]:
            continue
        yield from _compare_renderings(key, (mine[name], variables[0]), (its[name], variables[1]))


def _list_variables(side: Tokenizer) -> dict[str, str]:
    return {key: str(value) for key, value in side.tokenizer.special_tokens_map.items() if isinstance(value, str)}


def _compare_renderings(
    key: str, ours: tuple[str, Mapping[str, str]], theirs: tuple[str, Mapping[str, str]]
) -> Iterator[ChangedSetting]:
    its, mine = render(*theirs), render(*ours)
    for number, (here, there) in enumerate(zip(mine, its, strict=True)):
        if here == there or not (here[0] or there[0]):
            continue  # two errors are one: there is nothing to be given to the model
        shared = count_alike(here[1], there[1]) if here[0] and there[0] else 0
        words = [_show(side, shared) for side in (here, there)]
        # What the parent cannot render at all, nothing can be held against.
        effect = "input" if there[0] else "none"
        note = f"what is made of conversation {number + 1} of {len(CONVERSATIONS)}"
        yield ChangedSetting(key=key, parent=words[1], value=words[0], effect=effect, note=note)
        if effect != "none":
            return
    if ours[0] == theirs[0]:
        return
    # What shows only where a certain word is said shows in no conversation that is fixed.
    constants = (word.strip() for template in (ours[0], theirs[0]) for word in list_constants(template))
    looked_for = [word for word in dict.fromkeys(constants) if word]
    asked = [_ask(word) for word in looked_for[:_MOST_WORDS]]
    for word, here, there in zip(looked_for, render(*ours, asked), render(*theirs, asked), strict=False):
        if there[0] and here != there:
            shared = count_alike(here[1], there[1]) if here[0] else 0
            note = f"what is made of a user's {quote(word, _SHOWN)}"
            yield ChangedSetting(
                key=key, parent=_show(there, shared), value=_show(here, shared), effect="input", note=note
            )
            return
    words = [quote(side[0], _SHOWN) for side in (ours, theirs)]
    note = f"other words, which make the same of {len(CONVERSATIONS)} conversations"
    yield ChangedSetting(key=f"{key}.source", parent=words[1], value=words[0], effect="none", note=note)


def _ask(word: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": word}], "add_generation_prompt": True}


def _show(rendered: tuple[bool, str], begin: int) -> str:
    done, text = rendered
    if not done:
        return f"an error ({text})"
    return quote(f"{'...' if begin else ''}{text[begin : begin + _SHOWN]}")


def render(
    template: str, variables: Mapping[str, str], conversations: Sequence[Mapping[str, Any]] = CONVERSATIONS
) -> list[tuple[bool, str]]:
    """Render a template for each conversation, in transformers' sandbox and a process of its own.

    Returns:
        Per conversation whether it was rendered, and the text; or the kind of the error.
    """
    question = {"template": template, "variables": dict(variables), "conversations": list(conversations)}
    try:
        done = subprocess.run(  # noqa: S603 - this very program, and no shell
            [sys.executable, "-P", rendering.__file__],
            input=json.dumps(question).encode(),
            capture_output=True,
            timeout=2 * rendering.SECONDS,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as error:
        done = error.stdout or b""
    answers = [tuple(json.loads(line)) for line in done.decode().splitlines() if line.endswith("]")]
    ended = (False, f"it took more than {rendering.SECONDS} s or {rendering.MEMORY // 10**9} GB")
    return [*answers, *[ended] * (len(conversations) - len(answers))]
