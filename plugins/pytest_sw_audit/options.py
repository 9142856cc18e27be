"""The settings of an audit as options of the command line and as ini keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from sw_audit.runner.options import OPTIONS, AuditOption, AuditSettings

PRECEDENCE = (
    "A setting is taken from the command line, else from the ini key of the same name (sw_audit_...), else from "
    "the policy, else from the defaults. The policy is the file given with --sw-audit-policy (or the collected "
    "*.swaudit.toml file), else [tool.sw_audit] in the pyproject.toml of the root folder: the one or the other, "
    "they are not mixed."
)
ASKING = ("--sw-audit", "--sw-audit-model", "--sw-audit-policy")
"""The options that ask for an audit; without file arguments the audit is then all that is collected."""

_INI_TYPES: dict[str, Literal["linelist", "string", "int", "bool"]] = {
    "list": "linelist",
    "text": "string",
    "number": "int",
    "switch": "bool",
}


def add_options(parser: pytest.Parser) -> None:
    """Add every setting as an option of the group "sw-audit" and as an ini key."""
    group = parser.getgroup("sw-audit", f"sw-audit: a test suite for model weights. {PRECEDENCE}")
    group.addoption(
        "--sw-audit",
        action="store_true",
        dest="sw_audit",
        help="Audit the models that [tool.sw_audit] names.",
    )
    for option in OPTIONS.values():
        form: dict[str, Any] = {"metavar": option.metavar, "choices": option.choices}
        if option.kind == "switch":
            form = {"action": "store_true"}
        elif option.kind == "list":
            form["action"] = "append"
        elif option.kind == "number":
            form["type"] = int
        key = _name_key(option)
        group.addoption(f"--sw-audit-{option.name}", dest=key, default=None, help=option.meaning, **form)
        parser.addini(key, option.meaning, type=_INI_TYPES[option.kind], default=None)


def is_requested(config: pytest.Config) -> bool:
    """Whether an audit is asked for, on the command line or in the ini file."""
    return bool(config.getoption("sw_audit") or any(_read(config, OPTIONS[name]) for name in ("model", "policy")))


def is_alone(config: pytest.Config) -> bool:
    """Whether the command line asks for an audit, so that without file arguments nothing else is collected."""
    given = {word.partition("=")[0] for word in config.invocation_params.args}
    return not given.isdisjoint(ASKING)


def read_settings(config: pytest.Config) -> AuditSettings:
    """Read every setting: the command line goes before the ini file.

    Paths on the command line are relative to the working folder, those in an ini file to that file.

    Raises:
        pytest.UsageError: If an ini key holds a word that it does not allow.
    """
    values = {name: _read(config, option) for name, option in OPTIONS.items()}
    return AuditSettings.of_values(values, config.invocation_params.dir)


def _name_key(option: AuditOption) -> str:
    """Return the ini key of an option, which is also its destination."""
    return f"sw_audit_{option.name.replace('-', '_')}"


def _read(config: pytest.Config, option: AuditOption) -> Any:
    key = _name_key(option)
    value = config.getoption(key)
    if value is not None:
        return value
    value = config.getini(key)
    if value is not None and option.choices and value not in option.choices:
        allowed = ", ".join(option.choices)
        raise pytest.UsageError(f"{config.inipath}: {key} is {value!r}; write one of {allowed}")
    if isinstance(value, list):
        return [_place(config, word) if option.name == "model" else word for word in value]
    if isinstance(value, str) and option.path:
        return str((config.inipath or config.rootpath).parent / value)
    # What a baseline is called must not turn into the path of what happens to lie beside the ini file.
    anchored = option.name in ("corpus", "parent") or (option.name == "compare" and _is_path(value))
    return _place(config, value) if anchored and value else value


def _is_path(value: str | None) -> bool:
    return value is not None and (Path(value).suffix in (".json", ".html", ".htm") or "/" in value)


def _place(config: pytest.Config, source: str) -> str:
    """Turn a path that exists beside the ini file into an absolute one; ids and names stay as they are."""
    name, mark, path = source.rpartition("=")
    beside = (config.inipath or config.rootpath).parent / path
    return f"{name}{mark}{beside}" if beside.exists() else source
