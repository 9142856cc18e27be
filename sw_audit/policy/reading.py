"""From TOML and options to a policy; whatever is wrong is one line that names the key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sw_audit.checks.registry import find_checks
from sw_audit.errors import PolicyError
from sw_audit.fact import Fact, write_location
from sw_audit.policy.policy import Policy
from sw_audit.toml_text import parse_toml

_GONE = {"resamples": "there is no such key any more: intervals are computed and not drawn"}
"""Keys that earlier versions had."""
_INIT = "`sw-audit init` writes a policy file with every key"


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        PolicyError: If there is no such file, it is not TOML, or it does not say what it means.
    """
    asked = f"policy {path}"
    try:
        document = parse_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PolicyError(asked, error.strerror or type(error).__name__, _INIT) from error
    except UnicodeDecodeError as error:
        raise PolicyError(asked, "it is not text in UTF-8", "save it as UTF-8") from error
    except ValueError as error:
        raise PolicyError(asked, f"it is not TOML: {error}", "correct it there") from error
    return parse_policy(document, str(path))


def parse_policy(data: Mapping[str, Any], origin: str) -> Policy:
    """Make a policy of a document as TOML gives it.

    Values are taken as they are written: a number in quotes is not a number. `origin` says in error messages where
    it comes from.

    Raises:
        PolicyError: If a key is unknown, or a value of a wrong type or out of range; the first one is told.
    """
    find_checks()  # what other packages bring must load before anything is read
    try:
        # Through JSON, for in strict mode pydantic reads tuples only from JSON. Dates, which JSON has
        # not, become tables, which no key accepts but the one that asks for a day.
        text = json.dumps(
            _write_days(data), default=lambda value: {type(value).__name__: str(value)}, ensure_ascii=False
        )
        return Policy.model_validate_json(text.encode(), strict=True)
    except UnicodeEncodeError as error:
        asked = f"policy {origin}, {error.object[max(error.start - 40, 0) : error.end + 40]!r}"
        raise PolicyError(asked, "this name is not text in UTF-8", "rename the file or folder") from error
    except ValidationError as error:
        first = error.errors(include_url=False)
        # An unknown key comes first: a misspelt one may well be why another is missing.
        raise _explain(sorted(first, key=lambda detail: detail["type"] != "extra_forbidden")[0], origin) from error
    except PolicyError as error:
        # Recipes are read by their own parser, which complains in its own words.
        asked = f"policy {origin}, key quantization.recipes: {error.asked}"
        raise PolicyError(asked, error.found, error.remedy) from error


def _write_days(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write the last days of waivers, which TOML gives as dates, as JSON has them."""
    waivers = data.get("waiver")
    if not isinstance(waivers, list):
        return data
    days = [
        {**waiver, "until": waiver["until"].isoformat()}
        # A time of day is a date to Python, and none to the policy.
        if isinstance(waiver, Mapping) and type(waiver.get("until")) is date
        else waiver
        for waiver in waivers
    ]
    return {**data, "waiver": days}


def _explain(error: ErrorDetails, origin: str) -> PolicyError:
    path = [part for part in error["loc"] if part != "[key]"]
    asked = f"policy {origin}, key {write_location(path)}" if path else f"policy {origin}"
    if error["type"] == "extra_forbidden":
        return _explain_unknown(path, asked)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return PolicyError(asked, "it is missing", "add it")
    if error["type"] == "value_error":
        return PolicyError(asked, message, "correct it there")
    if error["type"] == "json_invalid":
        return PolicyError(asked, message[:1].lower() + message[1:], "write it in the form of a policy file")
    given = error["input"]
    shown = "a table" if isinstance(given, Mapping) else "a list" if isinstance(given, list) else repr(given)
    return PolicyError(asked, f"{shown} does not do", f"{message[:1].lower()}{message[1:]}")


def _explain_unknown(path: Sequence[str | int], asked: str) -> PolicyError:
    *parents, name = path
    keys = _list_keys(parents)
    what = "check" if parents == ["checks"] else "key"
    if not parents and name in _GONE:
        return PolicyError(asked, _GONE[str(name)], "delete the line")
    near = get_close_matches(str(name).replace("_", "-" if what == "check" else "_"), keys, 1, cutoff=0.5)
    remedy = f"write {near[0]!r}" if near else f"choose among {', '.join(keys)}"
    return PolicyError(asked, f"there is no {what} {str(name)!r}", remedy)


def _list_keys(path: Sequence[str | int]) -> list[str]:
    if path[:1] == ["checks"]:
        checks = find_checks()
        return list(checks[str(path[1])].limits.model_fields) if len(path) > 1 else list(checks)
    model: type[BaseModel] = Policy
    for part in path:
        if isinstance(part, int):
            continue
        fields = model.model_fields.items()
        field = next((field for name, field in fields if part in (name, field.alias)), None)
        inner = None if field is None else _find_table(field.annotation)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _find_table(annotation: Any) -> type[BaseModel] | None:
    """Find the model in an annotation such as `CorpusPolicy` or `tuple[ModelPolicy, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := _find_table(part))), None)


# Options that people give flat, and the table that they belong to.
_NESTED = {"windows": "corpus", "window": "corpus", "stride": "corpus", "recipes": "quantization"}
# What a corpus keeps when another text is put in its place: how it is cut, not what it is.
_CUTTING = ("window", "stride", "windows", "bos")


def overlay_policy(policy: Policy, **options: Any) -> Policy:
    """Return the policy with options put on top of it.

    Args:
        policy: What the file says.
        options: `None` is not given. Any key of the policy, tables as mappings (merged key by key); and, flat:
            `corpus` as a source (then nothing but its windows is kept of the policy's corpus), `windows`,
            `window`, `stride`, `recipes`; `dtype`, `device`, `revision`, `bos`, `engine`, `url`, `kv-cache` (for
            every model); `parent` (for every model but the parent itself); `expect` (also for models that have an
            expectation of their own); `strict` (whether laws are gates); `no-redaction`; `models` as sources or
            tables.

    Raises:
        PolicyError: If an option is unknown, or a value of a wrong type or out of range.
    """
    data = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name, value in options.items():
        if value is not None:
            _lay(data, "model" if name == "models" else name, _plain(value))
    return parse_policy(data, "options")


def _lay(data: dict[str, Any], name: str, value: Any) -> None:
    if name in ("dtype", "device", "revision", "bos", "engine", "url", "kv-cache"):
        data["model"] = [{**model, name.replace("-", "_"): value} for model in data.get("model", [])]
    elif name == "parent":
        data["model"] = [
            model if value in (model["source"], model.get("id")) else {**model, name: value}
            for model in data.get("model", [])
        ]
    elif name == "model":
        data["model"] = [{"source": model} if isinstance(model, str) else model for model in value]
    elif name == "corpus" and isinstance(value, str):
        kept = {key: part for key, part in data.get("corpus", {}).items() if key in _CUTTING}
        data["corpus"] = {**kept, "source": value}
    elif name in _NESTED:
        data[_NESTED[name]] = {**data.get(_NESTED[name], {}), name: value}
    elif name == "strict":
        data["laws"] = "gate" if value else "report"
    elif name == "no-redaction":
        data["redaction"] = not value
    elif name == "expect":
        data["expect"] = value
        data["model"] = [{**model, "expect": None} for model in data.get("model", [])]
    elif isinstance(value, Mapping) and isinstance(data.get(name), dict):
        data[name] = _merge(data[name], value)
    else:
        data[name] = value


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(under, dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _plain(value: Any) -> Any:
    """Turn facts and paths, also inside lists, into what TOML could have said."""
    if isinstance(value, Fact):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | bool | int | float) or value is None else str(value)
