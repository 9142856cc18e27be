"""Options on top of a policy: what is said on the command line wins over what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sw_audit.fact import Fact
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import parse_policy

# Options that people give flat, and the table that they belong to.
_NESTED = {"windows": "corpus", "window": "corpus", "stride": "corpus", "recipes": "quantization"}
# What a corpus keeps when another text is put in its place: how it is cut, not what it is.
_CUTTING = ("window", "stride", "windows")


def overlay_policy(policy: Policy, **options: Any) -> Policy:
    """Return the policy with options put on top of it.

    Args:
        policy: What the file says.
        options: `None` is not given. Any key of the policy, tables as mappings (merged key by key); and, flat:
            `corpus` as a source (then nothing but its windows is kept of the policy's corpus), `windows`,
            `window`, `stride`, `recipes`; `dtype`, `device`, `revision` (for every model); `parent` (for every
            model but the parent itself); `expect` (also for models that have an expectation of their own);
            `models` as sources or tables.

    Raises:
        PolicyError: If an option is unknown, or a value of a wrong type or out of range.
    """
    data = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name, value in options.items():
        if value is not None:
            _lay(data, "model" if name == "models" else name, _plain(value))
    return parse_policy(data, "options")


def _lay(data: dict[str, Any], name: str, value: Any) -> None:
    if name in ("dtype", "device", "revision"):
        data["model"] = [{**model, name: value} for model in data.get("model", [])]
    elif name == "parent":
        data["model"] = [
            model if value in (model["source"], model.get("id")) else {**model, name: value}
            for model in data.get("model", [])
        ]
    elif name == "model":
        data["model"] = [{"source": one} if isinstance(one, str) else one for one in value]
    elif name == "corpus" and isinstance(value, str):
        kept = {key: part for key, part in data.get("corpus", {}).items() if key in _CUTTING}
        data["corpus"] = {**kept, "source": value}
    elif name in _NESTED:
        data[_NESTED[name]] = {**data.get(_NESTED[name], {}), name: value}
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
        merged[name] = _merge(under, value) if both and under is not None else value
    return merged


def _plain(value: Any) -> Any:
    """Turn facts and paths, also inside lists, into what TOML could have said."""
    if isinstance(value, Fact):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | bool | int | float) or value is None else str(value)
