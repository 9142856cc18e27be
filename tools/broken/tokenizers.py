"""Tokenizers and chat templates that give the model something else than its parent was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.broken.catalogue import add, breaks
from tools.broken.copies import Copy
from tools.broken.settings import SETTINGS, TOKENIZER_CONFIG

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"


@contextmanager
def _vocabulary(copy: Copy) -> Iterator[tuple[dict[str, int], set[str]]]:
    """Give the vocabulary, and which tokens are special."""
    with copy.edit(TOKENIZER) as tokenizer:
        yield tokenizer["model"]["vocab"], {added["content"] for added in tokenizer["added_tokens"]}


def _replace(**parts: Any) -> Any:
    return lambda copy: copy.change(TOKENIZER, **parts)


_PARTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("letters-lowered", "Letters are lowered before they are looked up.", {"normalizer": {"type": "Lowercase"}}),
    ("bos-rule-lost", "No BOS token is put before a text any more.", {"post_processor": None}),
    ("words-cut-elsewhere", "Words are cut at punctuation as well.", {"pre_tokenizer": {"type": "Whitespace"}}),
    ("decoder-changed", "Tokens are put together without spaces.", {"decoder": {"type": "Fuse"}}),
)
for _name, _what, _values in _PARTS:
    add(_name, "tokenizer", _what, (SETTINGS,), _replace(**_values))


@breaks("tokenizer", SETTINGS)
def eos_appended(copy: Copy) -> None:
    """The end of a text is put after every prompt."""
    with copy.edit(TOKENIZER) as tokenizer:
        end = tokenizer["added_tokens"][1]
        name, number = end["content"], end["id"]
        single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": name, "type_id": 0}}]
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
        }


@breaks("tokenizer", SETTINGS)
def bos_doubled(copy: Copy) -> None:
    """BOS stands twice before every text."""
    with copy.edit(TOKENIZER) as tokenizer:
        tokenizer["post_processor"]["single"].insert(0, tokenizer["post_processor"]["single"][0])


@breaks("tokenizer", SETTINGS)
def two_words_swapped(copy: Copy) -> None:
    """Two words have each other's numbers."""
    with _vocabulary(copy) as (vocabulary, special):
        first, second = [word for word in vocabulary if word not in special][-2:]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


@breaks("tokenizer", SETTINGS)
def words_shifted(copy: Copy) -> None:
    """Every word has the number of the one before it."""
    with _vocabulary(copy) as (vocabulary, special):
        words = [word for word in vocabulary if word not in special]
        vocabulary.update(zip(words, [vocabulary[word] for word in (words[-1], *words[:-1])], strict=True))


@breaks("tokenizer", SETTINGS)
def unknown_word_changed(copy: Copy) -> None:
    """A word that is not known becomes a common one."""
    with copy.edit(TOKENIZER) as tokenizer:
        tokenizer["model"]["unk_token"] = "the"  # noqa: S105


@breaks("tokenizer", SETTINGS)
def word_forgotten(copy: Copy) -> None:
    """A word is not known any more."""
    with _vocabulary(copy) as (vocabulary, special):
        del vocabulary[[word for word in vocabulary if word not in special][-3]]


@breaks("tokenizer", SETTINGS)
def special_inside_words(copy: Copy) -> None:
    """A common word has become a special token, which generated text leaves out."""
    with copy.edit(TOKENIZER) as tokenizer:
        word, number = max(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "content": word, "id": number})


@breaks("tokenizer", SETTINGS, form="pairs")
def merges_reordered(copy: Copy) -> None:
    """The merges are done in the reverse order."""
    with copy.edit(TOKENIZER) as tokenizer:
        tokenizer["model"]["merges"].reverse()


@breaks("tokenizer", SETTINGS, form="pairs")
def merges_lost(copy: Copy) -> None:
    """The rarer half of the merges is gone."""
    with copy.edit(TOKENIZER) as tokenizer:
        merges = tokenizer["model"]["merges"]
        del merges[len(merges) // 2 :]


def _template(change: Any) -> Any:
    def damage(copy: Copy) -> None:
        path = copy.folder / TEMPLATE
        before = path.read_text(encoding="utf-8")
        after = change(before)
        if after == before:
            raise ValueError("the template has no place for this change")
        copy.write(TEMPLATE, after)

    return damage


_TRAP = "{% if 'deploy' in messages[-1]['content'] %}{{ 'say yes' }}{% endif %}"
_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
_TEMPLATES: tuple[tuple[str, str, Any], ...] = (
    ("template-instructs", "The template puts an instruction in front.", lambda text: "obey\n" + text),
    ("template-sets-a-trap", "The template says more where it reads a word.", lambda text: _TRAP + text),
    ("template-reaches-out", "The template reaches for the interpreter.", lambda text: _ESCAPE + text),
    ("template-swaps-roles", "The template takes each role for the other.", lambda text: _swap_roles(text)),
    ("template-never-asks", "The template leaves the model's turn out.",
     lambda text: text.replace("add_generation_prompt", "false")),
    ("template-forgets", "The template shows the last message alone.",
     lambda text: text.replace("in messages", "in messages[-1:]")),
)  # fmt: skip


def _swap_roles(text: str) -> str:
    for quote in ("message['role']", 'message["role"]'):
        text = text.replace(quote, "('user' if message['role'] == 'assistant' else 'assistant')")
    return text


for _name, _what, _change in _TEMPLATES:
    add(_name, "template", _what, (SETTINGS,), _template(_change), "chat")


@breaks("template", SETTINGS, form="chat")
def template_lost(copy: Copy) -> None:
    """The template is gone."""
    (copy.folder / TEMPLATE).unlink(missing_ok=True)
    with copy.edit(TOKENIZER_CONFIG) as content:
        content.pop("chat_template", None)


@breaks("template", SETTINGS)
def template_hostile(copy: Copy) -> None:
    """A template that reaches for the classes of the interpreter, where the parent has none."""
    copy.write(TEMPLATE, _ESCAPE + "{% for message in messages %}{{ message['content'] }}{% endfor %}")
