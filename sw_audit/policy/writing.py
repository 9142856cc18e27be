"""The policy file that `sw-audit init` writes: every key with its meaning and default, made from the facts."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.registry import find_checks
from sw_audit.fact import Fact
from sw_audit.policy.model_policy import ModelPolicy, Waiver
from sw_audit.policy.policy import Policy

_HEAD = """\
# A policy of sw-audit: which models to audit, on which text, and the limits of each check.
# Run it with `sw-audit audit THIS_FILE` or `pytest THIS_FILE`; pytest collects files named *.swaudit.toml.
# Every key is shown with its default. To change one, take away the `#` before it.
"""
# What is shown for keys that are not set by default.
_EXAMPLES: Mapping[str, Any] = {
    "model.source": "path/of/a/checkpoint",
    "model.id": "my-model",
    "model.revision": "main",
    "model.expect": "none",
    "model.bos": "never",
    "model.index": "huggyllama/llama-7b",
    "model.parent": "path/of/what/it/was/made/from",
    "model.base": "path/of/the/adapters/base",
    "model.gguf": "model-Q4_0.gguf",
    "model.manifest": "SHA256SUMS",
    "model.url": "http://127.0.0.1:8000/v1",
    "model.served": "my-model",
    "model.key_variable": "MY_SERVER_KEY",
    "model.top_tokens": 256,
    "waiver.model": "my-model",
    "waiver.until": date(2030, 12, 31),
    "waiver.owner": "who answers for it",
    "waiver.reason": "why it may fail until then",
    "budget": "5min",
    "memory": "8GiB",
    "compare": "before-tuning",
    "descent.lm_eval_limit": 200,
    "descent.lm_eval_path": "tasks",
    "descent.decisions": "decisions.jsonl",
    "descent.decisions_limit": 30,
    "index": "my-index.toml",
    "prompts": ("The quick brown fox", "Once upon a time"),
    "corpus.config": "wikitext-2-raw-v1",
    "corpus.revision": "main",
    "corpus.window": 512,
    "corpus.windows": 64,
    "corpus.stride": 256,
    "corpus.choices": "items.jsonl",
    "corpus.stop_words": ("the", "of", "and"),
}
_WIDTH = 100


def commented_policy(sources: Sequence[str] = ()) -> str:
    """Return a policy file in which every key stands with its meaning and default, commented out.

    Prose is commented with `# `, a key with `#` alone: with these taken away each key is valid TOML. The sources
    are models to name, not commented out.
    """
    parts = [_HEAD, *_write_keys(Policy, "", skipped=("models", "waivers"))]
    parts += _write_models(sources)
    parts += ["", *_write_prose("One [[waiver]] table for each verdict that somebody answers for."), "#[[waiver]]"]
    parts += _write_keys(Waiver, "waiver.")
    for name, field in Policy.model_fields.items():
        table = field.get_default(call_default_factory=True)
        if isinstance(table, Fact):
            parts += ["", f"[{name}]", *_write_keys(type(table), f"{name}.")]
    for check in find_checks().values():
        parts += ["", *_write_prose(f"{check.title}. {check.meaning}"), f"[checks.{check.id}]"]
        parts += _write_keys(check.limits, f"checks.{check.id}.")
    return "\n".join(parts) + "\n"


def _write_models(sources: Sequence[str]) -> Iterator[str]:
    yield ""
    yield from _write_prose("One [[model]] table for each model to audit.")
    for source in sources:
        yield from ("[[model]]", f"source = {write_value(source)}", "")
    if not sources:
        yield "#[[model]]"
    yield from _write_keys(ModelPolicy, "model.", skipped=("source",) if sources else ())


def _write_keys(model: type[BaseModel], prefix: str, skipped: Sequence[str] = ()) -> Iterator[str]:
    meanings = _describe_keys(model)
    for name, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if name in skipped or isinstance(default, Fact | CheckLimits):
            continue
        key = field.alias or name
        path = f"{prefix}{key}"
        unset = default in (None, "")
        hint = " Required; for example:" if field.is_required() else " Not set by default; for example:"
        yield from _write_prose(f"{meanings.get(name, key)}{hint if unset else ''}")
        yield f"#{key} = {write_value(_find_example(path, field) if unset else default)}"


def _find_example(path: str, field: FieldInfo) -> Any:
    """Return what is shown where nothing is set; limits that another package brings may have no example."""
    if path == "waiver.check":
        return next(iter(find_checks()))
    return field.examples[0] if field.examples else _EXAMPLES.get(path, "...")


def _describe_keys(model: type[BaseModel]) -> dict[str, str]:
    """Read what each key means from the `Attributes` of the model's docstring and of those above it."""
    meanings: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        _, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        entries = re.split(r"^    (?=\w+: )", attributes, flags=re.MULTILINE)
        for entry in entries[1:]:
            name, _, meaning = entry.partition(": ")
            meanings[name] = " ".join(meaning.split())
    renamed = {field.alias: name for name, field in model.model_fields.items() if field.alias}
    return {renamed.get(name, name): meaning for name, meaning in meanings.items()}


def _write_prose(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def write_value(value: Any) -> str:
    """Write a value as TOML: a date, or what JSON holds but for null; a table goes on one line."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(key)} = {write_value(part)}" for key, part in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(write_value(part) for part in value)}]"
    if isinstance(value, date):
        return value.isoformat()
    # JSON writes strings, numbers and booleans as TOML does, but for one control character.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
