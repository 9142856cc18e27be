"""What is to be audited: one assignment per policy, put together from files and settings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_sw_audit.anchoring import anchor_paths
from pytest_sw_audit.options import Settings

if TYPE_CHECKING:
    from sw_audit.checks.info import CheckInfo
    from sw_audit.policy.policy import ModelPolicy, Policy

SUFFIX = ".swaudit.toml"
OPTIONS_KEY = ""
"""Key of the assignment that the options make; that of a policy file is the file's absolute path."""

_NAMED = re.compile(r"(?P<id>[\w.-]+)=(?P<source>.+)", re.DOTALL)


class Case(NamedTuple):
    """One model of one assignment."""

    key: str
    model: str


@dataclass(frozen=True)
class Assignment:
    """One policy with its models: what ends in one record.

    Attributes:
        key: Unique in the run, the same on every worker.
        name: Name of the folder for its files where there are several assignments.
        policy: The policy, settings included.
        checks: Ids of the checks to run, in their order, by model.
    """

    key: str
    name: str
    policy: Policy
    checks: Mapping[str, tuple[str, ...]]

    def list_checks(self, model_id: str) -> tuple[str, ...]:
        """Return the ids of the checks to run on one model, in their order."""
        return self.checks[model_id]

    @property
    def cases(self) -> tuple[Case, ...]:
        """The models, in the policy's order."""
        return tuple(Case(self.key, model.id) for model in self.policy.models)


def assign_options(settings: Settings, root: Path) -> Assignment:
    """Make the assignment that options, ini keys and `[tool.sw_audit]` describe.

    Raises:
        InputError: If the policy does not say what it means, or names no model.
    """
    from sw_audit.errors import PolicyError
    from sw_audit.policy.reading import read_policy

    table = root / "pyproject.toml"
    policy = read_policy(settings.policy) if settings.policy else read_tool_table(table)
    origin = settings.policy or table
    policy = anchor_paths(policy, origin.parent)
    if settings.models:
        chosen = tuple(_choose_model(named, policy.models) for named in settings.models)
        policy = _replace_models(policy, chosen)
    if not policy.models:
        remedy = (
            "name one with --sw-audit-model, or add a [[model]] table (in pyproject.toml [[tool.sw_audit.model]])"
        )
        raise PolicyError(f"an audit under {origin}", "it names no model", remedy)
    name = _stem(settings.policy) if settings.policy else "models"
    return _assign(OPTIONS_KEY, name, policy, settings)


def assign_file(path: Path, settings: Settings) -> Assignment:
    """Make the assignment that a policy file describes.

    Raises:
        InputError: If the policy does not say what it means, or names no model.
    """
    from sw_audit.errors import PolicyError
    from sw_audit.policy.reading import read_policy

    policy = anchor_paths(read_policy(path), path.parent)
    if not policy.models:
        raise PolicyError(f"policy {path}", "it names no model", "add a [[model]] table with a source")
    return _assign(str(path), _stem(path), policy, settings)


def read_tool_table(pyproject: Path) -> Policy:
    """Read `[tool.sw_audit]`, in the form of a policy file; the default policy where there is none.

    Raises:
        PolicyError: If the table does not say what it means.
    """
    from sw_audit.errors import PolicyError
    from sw_audit.policy.reading import parse_policy

    origin = f"{pyproject}: [tool.sw_audit]"
    table = load_tool_table(pyproject)
    if not isinstance(table, dict):
        raise PolicyError(f"policy {origin}", "it is not a table of TOML", "write it in the form of a policy file")
    return parse_policy(table, origin)


def load_tool_table(pyproject: Path) -> Any:
    """Return `[tool.sw_audit]` as it stands; an empty table where there is none, `None` if it cannot be read."""
    if not pyproject.is_file():
        return {}
    try:
        document: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    return document.get("tool", {}).get("sw_audit", {})


def find_checks() -> dict[str, CheckInfo]:
    """Return every check that there is, built-in and of other packages, by id."""
    from sw_audit.checks.extra import find_extra_checks
    from sw_audit.checks.info import CHECKS

    return {check.id: check for check in (*CHECKS, *(extra.info for extra in find_extra_checks()))}


def choose_checks(named: Collection[str], policy: Policy, model: ModelPolicy) -> tuple[str, ...]:
    """Return the checks to run on a model: those named, also where the policy leaves them out, else the policy's.

    Of those named, the ones that are about something else (a parent, or a model by itself) are left out, unless
    they are all: then they say why they are skipped.

    Raises:
        PolicyError: If there is no check of a name; it tells the nearest.
    """
    from sw_audit.checks.info import CHECKS
    from sw_audit.checks.registry import list_checks
    from sw_audit.errors import PolicyError

    if not named:
        return tuple(check.id for check in list_checks(policy, model))
    known = find_checks()
    for check in named:
        if check not in known:
            near = get_close_matches(check, known, n=1, cutoff=0.4)
            remedy = f"did you mean {near[0]!r}?" if near else f"the checks are {', '.join(known)}"
            raise PolicyError(f"check {check!r}", "there is no such check", remedy)
    wanted = tuple(check for check in known if check in named)
    other = "model" if model.parent else "descendant"
    foreign = {check.id for check in CHECKS if check.scope == other}
    return tuple(check for check in wanted if check not in foreign) or wanted


def _assign(key: str, name: str, policy: Policy, settings: Settings) -> Assignment:
    from sw_audit.checks.waivers import examine_waivers
    from sw_audit.policy.overlaying import overlay_policy
    from sw_audit.runner.run import preflight

    policy = overlay_policy(policy, **settings.overlay)
    checks = {model.id: choose_checks(settings.checks, policy, model) for model in policy.models}
    examine_waivers(policy, tuple(find_checks()))
    preflight(policy)
    return Assignment(key, name, policy, checks)


def _choose_model(named: str, known: tuple[ModelPolicy, ...]) -> ModelPolicy:
    from sw_audit.policy.policy import ModelPolicy

    for model in known:
        if model.id == named:
            return model
    match = _NAMED.fullmatch(named)
    if match and not Path(named).exists():
        return ModelPolicy(source=match["source"], id=match["id"])
    return ModelPolicy(source=named)


def _replace_models(policy: Policy, models: tuple[ModelPolicy, ...]) -> Policy:
    from sw_audit.errors import PolicyError

    ids = [model.id for model in models]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        remedy = "choose another id for one of them with --sw-audit-model ID=SOURCE"
        raise PolicyError("--sw-audit-model", f"two models are called {twice!r}", remedy)
    return policy.model_copy(update={"models": models})


def _stem(path: Path) -> str:
    return path.name.removesuffix(SUFFIX).removesuffix(".toml") or "policy"


def list_policy_arguments(config: pytest.Config) -> list[Path]:
    """Return the policy files among the command line's file arguments, as absolute paths."""
    here = config.invocation_params.dir
    named = [here / argument.partition("::")[0] for argument in config.args]
    return [path for path in dict.fromkeys(named) if path.name.endswith(SUFFIX) and path.is_file()]
