"""What a user can set: one table of settings, each an option of the command line and an ini key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

PRECEDENCE = (
    "A setting is taken from the command line, else from the ini key of the same name (sw_audit_...), else from "
    "the policy, else from the defaults. The policy is the file given with --sw-audit-policy (or the collected "
    "*.swaudit.toml file), else [tool.sw_audit] in the pyproject.toml of the root folder: the one or the other, "
    "they are not mixed."
)
ASKING = ("--sw-audit", "--sw-audit-model", "--sw-audit-policy")
"""The options that ask for an audit; without file arguments the audit is then all that is collected."""


@dataclass(frozen=True)
class Setting:
    """One setting: `--sw-audit-NAME` on the command line, `sw_audit_NAME` in an ini file.

    Attributes:
        name: Its name.
        kind: What it holds; `list` can be given several times.
        meaning: What it does.
        metavar: What stands for its value in the help.
        choices: The words it allows.
    """

    name: str
    kind: Literal["list", "text", "number", "switch"]
    meaning: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--sw-audit-{self.name}"

    @property
    def key(self) -> str:
        """The ini key, which is also the option's destination."""
        return f"sw_audit_{self.name.replace('-', '_')}"


SETTINGS = (
    Setting(
        "model",
        "list",
        "Audit this model: the path of a checkpoint folder, a hub id, the id of a model in the policy, or "
        "ID=SOURCE to choose the id. Can be given several times.",
        "SOURCE",
    ),
    Setting(
        "policy",
        "text",
        "Policy file for the models given by --sw-audit-model; without any, its own models are audited.",
        "FILE",
    ),
    Setting("check", "list", "Run only this check. Can be given several times.", "ID"),
    Setting(
        "corpus",
        "text",
        "Text to measure on: 'specimen', the path of a text, JSON or Parquet file, or a data set's name.",
        "SOURCE",
    ),
    Setting("windows", "number", "Measure on at most so many windows of the text.", "N"),
    Setting("dtype", "text", "Dtype to load in.", None, ("auto", "float32", "bfloat16", "float16")),
    Setting("device", "text", "Device to run on, such as cpu or cuda:0.", "DEVICE"),
    Setting("expect", "text", "What to expect of a model: super weights or not.", None, ("some", "none", "any")),
    Setting(
        "inconclusive",
        "text",
        "Whether an inconclusive verdict fails or is skipped with a warning.",
        None,
        ("fail", "warn"),
    ),
    Setting("seed", "number", "Seed of everything that is drawn.", "N"),
    Setting(
        "index",
        "text",
        "Index file of your own, which matches-published-index uses beside the published one.",
        "FILE",
    ),
    Setting(
        "parent",
        "text",
        "Hold every model beside this parent, which it was made from: a path, a hub id, or an id in the policy.",
        "SOURCE",
    ),
    Setting("save", "text", "Keep the record as a baseline of this name, in .sw-audit/baselines.", "NAME"),
    Setting(
        "compare", "text", "Hold every model against this baseline: its name, or the path of a record.", "NAME"
    ),
    Setting("cache-dir", "text", "Folder of what was measured before (default: .sw-audit/cache).", "DIR"),
    Setting("no-cache", "switch", "Measure everything again, and keep nothing for the next run."),
    Setting("out", "text", "Folder for record.json and report.html (default: sw-audit-out).", "DIR"),
    Setting("no-report", "switch", "Write record.json but no report.html."),
)
_INI_TYPES: dict[str, Literal["linelist", "string", "int", "bool"]] = {
    "list": "linelist",
    "text": "string",
    "number": "int",
    "switch": "bool",
}
_OVERLAID = (
    "corpus", "windows", "dtype", "device", "expect", "inconclusive", "seed", "index", "parent", "compare",
)  # fmt: skip
_PLACED = ("policy", "out", "index", "cache-dir")
"""Settings that are paths whatever they look like."""


@dataclass(frozen=True)
class Settings:
    """What the command line and the ini file say; `None` is not said.

    Attributes:
        models: Models as they were named.
        policy: Policy file.
        checks: Ids of the only checks to run.
        overlay: What is put on top of every policy.
        out: Folder for what is written.
        report: Whether a report is written.
        save: Name under which the record is kept as a baseline.
        cache: Folder of what was measured before, as it was named.
        caching: Whether anything is remembered.
        requested: Whether an audit is asked for, on the command line or in the ini file.
        alone: Whether the command line asks for it, so that without file arguments nothing else is collected.
    """

    models: tuple[str, ...]
    policy: Path | None
    checks: tuple[str, ...]
    overlay: dict[str, Any]
    out: Path
    report: bool
    save: str | None
    cache: Path | None
    caching: bool
    requested: bool
    alone: bool


def add_options(parser: pytest.Parser) -> None:
    """Add every setting as an option of the group "sw-audit" and as an ini key."""
    group = parser.getgroup("sw-audit", f"sw-audit: a test suite for model weights. {PRECEDENCE}")
    group.addoption(
        "--sw-audit",
        action="store_true",
        dest="sw_audit",
        help="Audit the models that [tool.sw_audit] names.",
    )
    for setting in SETTINGS:
        form: dict[str, Any] = {"metavar": setting.metavar, "choices": setting.choices}
        if setting.kind == "switch":
            form = {"action": "store_true"}
        elif setting.kind == "list":
            form["action"] = "append"
        elif setting.kind == "number":
            form["type"] = int
        group.addoption(setting.option, dest=setting.key, default=None, help=setting.meaning, **form)
        parser.addini(setting.key, setting.meaning, type=_INI_TYPES[setting.kind], default=None)


def read_settings(config: pytest.Config) -> Settings:
    """Read every setting: the command line goes before the ini file.

    Paths on the command line are relative to the working folder, those in an ini file to that file.

    Raises:
        pytest.UsageError: If an ini key holds a word that it does not allow.
    """
    said = {setting.name: _read(config, setting) for setting in SETTINGS}
    given = {word.partition("=")[0] for word in config.invocation_params.args}
    here = config.invocation_params.dir
    return Settings(
        models=tuple(said["model"] or ()),
        policy=here / said["policy"] if said["policy"] else None,
        checks=tuple(said["check"] or ()),
        overlay={name: said[name] for name in _OVERLAID if said[name] is not None},
        out=here / (said["out"] or "sw-audit-out"),
        report=not said["no-report"],
        save=said["save"],
        cache=here / said["cache-dir"] if said["cache-dir"] else None,
        caching=not said["no-cache"],
        requested=bool(config.getoption("sw_audit") or said["model"] or said["policy"]),
        alone=not given.isdisjoint(ASKING),
    )


def _read(config: pytest.Config, setting: Setting) -> Any:
    value = config.getoption(setting.key)
    if value is not None:
        return value
    value = config.getini(setting.key)
    if value is not None and setting.choices and value not in setting.choices:
        allowed = ", ".join(setting.choices)
        raise pytest.UsageError(f"{config.inipath}: {setting.key} is {value!r}; write one of {allowed}")
    if isinstance(value, list):
        return [_place(config, one) if setting.name == "model" else one for one in value]
    if isinstance(value, str) and setting.name in _PLACED:
        return str((config.inipath or config.rootpath).parent / value)
    # What a baseline is called must not turn into the path of what happens to lie beside the ini file.
    anchored = setting.name in ("corpus", "parent") or (setting.name == "compare" and _is_path(value))
    return _place(config, value) if anchored and value else value


def _is_path(value: str | None) -> bool:
    return value is not None and (Path(value).suffix in (".json", ".html", ".htm") or "/" in value)


def _place(config: pytest.Config, source: str) -> str:
    """Turn a path that exists beside the ini file into an absolute one; ids and names stay as they are."""
    name, mark, path = source.rpartition("=")
    beside = (config.inipath or config.rootpath).parent / path
    return f"{name}{mark}{beside}" if beside.exists() else source
