"""What a user can set for an audit: one table, for the command line and for pytest alike.

Importing this costs nothing, for every run of pytest does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sw_audit.toml_text import parse_toml

SUFFIX = ".swaudit.toml"
"""How the name of a policy file ends."""


@dataclass(frozen=True)
class AuditOption:
    """One option: `--NAME` of `sw-audit audit`, `--sw-audit-NAME` of pytest, `sw_audit_NAME` in an ini file.

    Attributes:
        name: Its name.
        kind: What it holds; a `list` can be given several times.
        meaning: What it does.
        metavar: What stands for its value in the help.
        choices: The words it allows.
        overlaid: Whether it is put on top of the policy.
        path: Whether it is a path, whatever it looks like.
    """

    name: str
    kind: Literal["list", "text", "number", "switch"]
    meaning: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    overlaid: bool = False
    path: bool = False


FORMATS = {
    "markdown": "as Markdown, short enough for a comment on a pull request",
    "text": "as plain text, as the terminal shows it",
    "sarif": "as SARIF 2.1.0, for code scanning",
    "cyclonedx": "as a CycloneDX bill of materials (ML-BOM)",
    "intoto": "as an in-toto statement, not signed",
    "model-card": "as a section for a model card",
    "annex": "as an annex for compliance",
    "badge": "as a badge, in SVG",
}
"""What a record is rendered in besides the report, by the name of the renderer; each is an option."""

_DTYPES = ("auto", "float32", "bfloat16", "float16")

OPTIONS = {
    option.name: option
    for option in (
        AuditOption(
            "model",
            "list",
            "Audit this model: the path of a checkpoint folder or of a GGUF or safetensors file, a hub id, "
            "the id of a model in the policy, ID=SOURCE to choose the id, or 'specimen' or 'control', "
            "which ship with sw-audit. Can be given several times.",
            "SOURCE",
        ),
        AuditOption(
            "policy",
            "text",
            "Policy for the models that are named; without any, for its own.",
            "FILE",
            path=True,
        ),
        AuditOption("check", "list", "Run only this check; can be given several times.", "ID"),
        AuditOption(
            "corpus",
            "text",
            "Text to measure on: 'english' (the default for natural language), a text, JSON or Parquet file, "
            "a data set's name, 'specimen', or another text that ships: 'german', 'french', 'spanish', 'chinese'.",
            "SOURCE",
            overlaid=True,
        ),
        AuditOption("windows", "number", "Measure on at most so many windows of the text.", "N", overlaid=True),
        AuditOption("dtype", "text", "Dtype to load in.", choices=_DTYPES, overlaid=True),
        AuditOption("device", "text", "Such as cpu or cuda:0.", "DEVICE", overlaid=True),
        AuditOption(
            "bos",
            "text",
            "Whether the BOS token stands before every text: as the model's own files have it, always, or never.",
            choices=("auto", "always", "never"),
            overlaid=True,
        ),
        AuditOption(
            "engine",
            "text",
            "Measure quality in this program: transformers (the default), llama.cpp, vllm, or openai for a "
            "server; and hold what it gives against what transformers makes of the same files.",
            "ENGINE",
            overlaid=True,
        ),
        AuditOption(
            "url",
            "text",
            "Where the server answers that runs the model, such as http://127.0.0.1:8000/v1; for the engine "
            "openai.",
            "URL",
            overlaid=True,
        ),
        AuditOption(
            "kv-cache",
            "list",
            "Also measure the engine with its key-value cache in this form, such as q8_0 or fp8; can be given "
            "several times.",
            "FORM",
            overlaid=True,
        ),
        AuditOption(
            "expect",
            "text",
            "Whether to expect super weights: some, none, or any outcome (the default).",
            choices=("some", "none", "any"),
            overlaid=True,
        ),
        AuditOption(
            "effort",
            "text",
            "How much is measured: quick (what gates need), standard (laws too; the default), "
            "or thorough (every arm over the whole text).",
            choices=("quick", "standard", "thorough"),
            overlaid=True,
        ),
        AuditOption(
            "strict",
            "switch",
            "Fail also where a law does not hold: a claim of the science that is only told of by default.",
            overlaid=True,
        ),
        AuditOption(
            "inconclusive",
            "text",
            "Whether an inconclusive gate fails or only warns.",
            choices=("fail", "warn"),
            overlaid=True,
        ),
        AuditOption("seed", "number", "Seed of everything that is drawn.", "N", overlaid=True),
        AuditOption(
            "budget",
            "text",
            "End the whole run after this time, such as 90s, 5min or 1h30min: what is not decided by then is "
            "inconclusive, and the next run goes on from what was measured.",
            "TIME",
            overlaid=True,
        ),
        AuditOption(
            "memory",
            "text",
            "How much memory models and the work on them may take beyond the program itself, such as 8GiB: "
            "a model that does not fit is read layer by layer.",
            "SIZE",
            overlaid=True,
        ),
        AuditOption(
            "index",
            "text",
            "Index file of your own, read beside the published one.",
            "FILE",
            overlaid=True,
            path=True,
        ),
        AuditOption(
            "parent",
            "text",
            "Hold every model beside this one, which it was made from: a path, a hub id, or an id in the policy.",
            "SOURCE",
            overlaid=True,
        ),
        AuditOption(
            "compare",
            "text",
            "Hold every model against a baseline: its name, or the path of a record.",
            "NAME",
            overlaid=True,
        ),
        AuditOption(
            "unverified",
            "switch",
            "Take the baseline's record though it does not verify: it was changed, or carries no digest.",
            overlaid=True,
        ),
        AuditOption(
            "no-redaction",
            "switch",
            "Leave home folders, user names in paths, and secrets in what is written; by default they become "
            "~, <user> and <secret>.",
            overlaid=True,
        ),
        AuditOption("save", "text", "Keep the record as a baseline of this name, in .sw-audit/baselines.", "NAME"),
        AuditOption(
            "cache-dir", "text", "Where measurements are kept (default: .sw-audit/cache).", "DIR", path=True
        ),
        AuditOption(
            "cache-size",
            "text",
            "Keep no more than this in the cache (default: 2GB).",
            "SIZE",
        ),
        AuditOption(
            "cache-age", "text", "Keep nothing in the cache that was not used for so long (default: 90d).", "TIME"
        ),
        AuditOption("no-cache", "switch", "Measure everything again, and keep nothing for the next run."),
        AuditOption(
            "out", "text", "Folder for record.json and report.html (default: sw-audit-out).", "DIR", path=True
        ),
        AuditOption("no-report", "switch", "Write record.json but no report.html."),
        *(
            AuditOption(name, "text", f"Write the record to this file too, {how}.", "FILE", path=True)
            for name, how in FORMATS.items()
        ),
        AuditOption(
            "summary",
            "switch",
            "Append the Markdown to the file that GITHUB_STEP_SUMMARY names: the job summary of GitHub Actions.",
        ),
    )
}


@dataclass(frozen=True)
class AuditSettings:
    """What is asked for besides what the policy says; `overlay` is put on top of every policy."""

    models: tuple[str, ...] = ()
    policy: Path | None = None
    checks: tuple[str, ...] = ()
    overlay: dict[str, Any] = field(default_factory=dict)
    out: Path = Path("sw-audit-out")
    report: bool = True
    formats: Mapping[str, Path] = field(default_factory=dict)
    summary: bool = False
    save: str | None = None
    cache: Path | None = None
    caching: bool = True
    cache_size: str = "2GB"
    cache_age: str = "90d"

    @classmethod
    def of_values(cls, values: Mapping[str, Any], here: Path = Path()) -> AuditSettings:
        """Put the values of the options together; relative paths are taken from a folder."""
        overlay = {
            name: str(values[name]) if option.path else values[name]
            for name, option in OPTIONS.items()
            if option.overlaid and values.get(name) is not None
        }
        policy, cache = values.get("policy"), values.get("cache-dir")
        return cls(
            models=tuple(values.get("model") or ()),
            policy=here / policy if policy else None,
            checks=tuple(values.get("check") or ()),
            overlay=overlay,
            out=here / (values.get("out") or cls.out),
            report=not values.get("no-report"),
            formats={name: here / values[name] for name in FORMATS if values.get(name)},
            summary=bool(values.get("summary")),
            save=values.get("save"),
            cache=here / cache if cache else None,
            caching=not values.get("no-cache"),
            cache_size=values.get("cache-size") or cls.cache_size,
            cache_age=values.get("cache-age") or cls.cache_age,
        )


def load_tool_table(pyproject: Path) -> Any:
    """Return `[tool.sw_audit]` as it stands; an empty table where there is none, `None` if it cannot be read."""
    if not pyproject.is_file():
        return {}
    try:
        tools = parse_toml(pyproject.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):
        return None
    return tools.get("sw_audit", {}) if isinstance(tools, dict) else None
