"""What is to be audited: one assignment per policy, put together from files and settings."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checks.judging import list_checks
from sw_audit.checks.registry import find_checks
from sw_audit.checks.waivers import examine_waivers
from sw_audit.corpus.text import BUILT_IN
from sw_audit.errors import PolicyError
from sw_audit.policy.origin import TOOL_TABLE, PolicyOrigin, trace_policy
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.policy.reading import overlay_policy, parse_policy, read_policy
from sw_audit.progress import Progress
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import is_name, open_baseline
from sw_audit.runner import run
from sw_audit.runner.cache import Cache
from sw_audit.runner.options import SUFFIX, AuditSettings, load_tool_table
from sw_audit.runner.pair import Parents
from sw_audit.specimen.shipped import find_shipped

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
        saved: Whether the record is kept as a baseline.
        origin: Where the policy stands; `None` where options alone make it.
    """

    key: str
    name: str
    policy: Policy
    checks: Mapping[str, tuple[str, ...]]
    saved: bool = False
    origin: PolicyOrigin | None = None

    @property
    def cases(self) -> tuple[Case, ...]:
        """The models, in the policy's order."""
        return tuple(Case(self.key, model.id) for model in self.policy.models)

    def run(
        self, model_id: str, *, progress: Progress, cache: Cache | None = None, parents: Parents | None = None
    ) -> ModelResult | ModelFailure:
        """Measure and judge one of the models; see `run_model`."""
        return run.run_model(
            self.policy,
            model_id,
            self.checks[model_id],
            progress=progress,
            cache=cache,
            saved=self.saved,
            parents=parents,
        )


def assign_options(settings: AuditSettings, root: Path) -> Assignment:
    """Make the assignment that options, ini keys and `[tool.sw_audit]` describe; see `assign_file`."""
    policy, source, origin = _read_asked(settings, root)
    if settings.models:
        chosen = tuple(_choose_model(named, policy.models) for named in settings.models)
        policy = _replace_models(policy, chosen)
    if not policy.models:
        remedy = (
            "name one with --sw-audit-model, or add a [[model]] table (in pyproject.toml [[tool.sw_audit.model]])"
        )
        raise PolicyError(f"an audit under {source}", "it names no model", remedy)
    name = _stem(settings.policy) if settings.policy else "models"
    return _assign(OPTIONS_KEY, name, policy, settings, origin)


def _read_asked(settings: AuditSettings, root: Path) -> tuple[Policy, Path, PolicyOrigin | None]:
    """Read the policy that is asked for, else `[tool.sw_audit]`, with paths taken from there, and its file."""
    pyproject = root / "pyproject.toml"
    policy = read_policy(settings.policy) if settings.policy else read_tool_table(pyproject)
    source, table = (settings.policy, ()) if settings.policy else (pyproject, TOOL_TABLE)
    return anchor_paths(policy, source.parent), source, trace_policy(policy, source, root, table=table)


@dataclass(frozen=True)
class SeriesOrder:
    """What is asked of every checkpoint of a series.

    Attributes:
        policy: The policy, settings included; it has no models.
        model: What every checkpoint has from the policy's one model: parent, expectation and so on.
        named: Ids of the only checks to run; none for those that the policy enables.
        name: Name of the policy.
        saved: Whether the record is kept as a baseline.
        origin: Where the policy stands; `None` where options alone make it.
    """

    policy: Policy
    model: ModelPolicy
    named: tuple[str, ...]
    name: str
    saved: bool = False
    origin: PolicyOrigin | None = None

    def make_model(self, path: Path) -> ModelPolicy:
        """Make the model of a checkpoint; its id is the folder's name."""
        said = self.model.model_dump(exclude_unset=True, exclude={"id", "source"})
        return ModelPolicy(source=str(path), **said)

    def assign(self, paths: Sequence[Path]) -> Assignment:
        """Make the assignment of some of the checkpoints."""
        policy = _replace_models(self.policy, tuple(self.make_model(path) for path in paths))
        checks = {model.id: choose_checks(self.named, policy, model) for model in policy.models}
        return Assignment(OPTIONS_KEY, self.name, policy, checks, self.saved, self.origin)


def order_series_audit(settings: AuditSettings, root: Path) -> SeriesOrder:
    """Read what options and policy ask of every checkpoint of a series; the checkpoints need not be there yet.

    Raises:
        InputError: If the policy names several models, or if what is asked for cannot be used.
    """
    policy, source, origin = _read_asked(settings, root)
    if len(policy.models) > 1:
        remedy = "keep one [[model]], which says what every checkpoint is (parent, expect, bos)"
        raise PolicyError(f"a series under {source}", f"it names {len(policy.models)} models", remedy)
    examine_waivers(
        policy.model_copy(update={"waivers": [one.model_copy(update={"model": "*"}) for one in policy.waivers]}),
        tuple(find_checks()),
    )
    if not policy.models:
        policy = policy.model_copy(update={"models": (ModelPolicy(source="checkpoint"),)})
    overlay = dict(settings.overlay)
    parent = overlay.pop("parent", None)
    policy = overlay_policy(policy, **overlay)
    model = policy.models[0]
    if parent is not None:
        model = model.model_copy(update={"parent": find_shipped(parent)})
    policy = policy.model_copy(update={"models": ()})
    above = policy.find_parent(model)
    if above is not None:
        inspect_checkpoint(above)
    run.preflight(policy.model_copy(update={"models": () if above is None else (above,)}))
    choose_checks(settings.checks, policy, model)
    if policy.compare is not None:
        open_baseline(policy.compare, unverified=policy.unverified)
    name = _stem(settings.policy) if settings.policy else "models"
    return SeriesOrder(policy, model, settings.checks, name, settings.save is not None, origin)


def assign_file(path: Path, settings: AuditSettings, root: Path) -> Assignment:
    """Make the assignment that a policy file describes; `root` is the folder whose pyproject.toml counts.

    Raises:
        InputError: If the policy does not say what it means, or names no model.
    """
    policy = anchor_paths(read_policy_file(path), path.parent)
    return _assign(str(path), _stem(path), policy, settings, trace_policy(policy, path, root, whole=True))


def read_policy_file(path: Path) -> Policy:
    """Read a policy that is to be audited as it stands, its paths as they are written.

    Raises:
        InputError: If the policy does not say what it means, or names no model.
    """
    policy = read_policy(path)
    if not policy.models:
        raise PolicyError(f"policy {path}", "it names no model", "add a [[model]] table with a source")
    return policy


def read_tool_table(pyproject: Path) -> Policy:
    """Read `[tool.sw_audit]`, in the form of a policy file; the default policy where there is none.

    Raises:
        PolicyError: If the table does not say what it means.
    """
    origin = f"{pyproject}: [tool.sw_audit]"
    table = load_tool_table(pyproject)
    if not isinstance(table, dict):
        raise PolicyError(f"policy {origin}", "it is not a table of TOML", "write it in the form of a policy file")
    return parse_policy(table, origin)


def choose_checks(named: Collection[str], policy: Policy, model: ModelPolicy) -> tuple[str, ...]:
    """Return the checks to run on a model: those named, also where the policy leaves them out, else the policy's.

    Of those named, the ones that are about something else (a parent, or a model by itself) are left out, unless
    they are all: then they say why they are skipped.

    Raises:
        PolicyError: If there is no check of a name; it tells the nearest.
    """
    if not named:
        return tuple(check.id for check in list_checks(policy, model))
    known = find_checks()
    for name in named:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            remedy = f"did you mean {near[0]!r}?" if near else f"the checks are {', '.join(known)}"
            raise PolicyError(f"check {name!r}", "there is no such check", remedy)
    chosen = tuple(check for check in known if check in named)
    other = "model" if model.parent else "descendant"
    foreign = {check.id for check in known.values() if check.scope == other}
    return tuple(check for check in chosen if check not in foreign) or chosen


def anchor_paths(policy: Policy, folder: Path) -> Policy:
    """Take the relative paths in a policy from the folder that it lies in.

    What neither exists there nor begins with a dot is the id of a model, an entry or a data set, and stays as it
    is; the policy's index, manifests, questions and the folder of tasks are always files. A parent that is another
    of the policy's models is named by its id; the words for the models that ship with sw-audit become their paths.
    """

    def anchor(source: str) -> str:
        place = folder / Path(source).expanduser()
        if not (source.startswith((".", "~")) or place.exists()):
            return source
        path = os.path.relpath(place)
        return path if place.exists() else f"./{path}"  # or it would read as a hub id

    def anchor_word(word: str) -> str:
        return word if word in (*BUILT_IN, "none") else anchor(word)

    def anchor_file(path: str | None) -> str | None:
        return path and os.path.relpath(folder / Path(path).expanduser())

    def anchor_text(text: CorpusPolicy) -> CorpusPolicy:
        return text.model_copy(
            update={"source": anchor_word(text.source), "choices": text.choices and anchor_word(text.choices)}
        )

    ids = {model.id for model in policy.models}
    models = tuple(
        model.model_copy(
            update={
                "source": find_shipped(anchor(model.source)),
                "index": model.index and anchor_word(model.index),
                "parent": model.parent
                if model.parent in (None, *ids)
                else find_shipped(anchor(model.parent or "")),
                "base": model.base and anchor(model.base),
                "manifest": anchor_file(model.manifest),
            }
        )
        for model in policy.models
    )
    descent = policy.descent.model_copy(
        update={
            "texts": tuple(anchor_text(text) for text in policy.descent.texts),
            "lm_eval_path": anchor_file(policy.descent.lm_eval_path),
            "decisions": anchor_file(policy.descent.decisions),
        }
    )
    compare = policy.compare if policy.compare is None or is_name(policy.compare) else anchor(policy.compare)
    update = {"models": models, "corpus": anchor_text(policy.corpus), "descent": descent, "compare": compare}
    return policy.model_copy(update={**update, "index": anchor_file(policy.index)})


def _assign(
    key: str, name: str, policy: Policy, settings: AuditSettings, origin: PolicyOrigin | None
) -> Assignment:
    overlay = dict(settings.overlay)
    if overlay.get("parent") is not None and overlay["parent"] not in {model.id for model in policy.models}:
        overlay["parent"] = find_shipped(overlay["parent"])
    policy = overlay_policy(policy, **overlay)
    checks = {model.id: choose_checks(settings.checks, policy, model) for model in policy.models}
    examine_waivers(policy, tuple(find_checks()))
    run.preflight(policy)
    return Assignment(key, name, policy, checks, settings.save is not None, origin)


def _choose_model(named: str, known: tuple[ModelPolicy, ...]) -> ModelPolicy:
    for model in known:
        if model.id == named:
            return model
    match = _NAMED.fullmatch(named)
    if match and not Path(named).exists():
        return ModelPolicy(source=find_shipped(match["source"]), id=match["id"])
    return ModelPolicy(source=find_shipped(named))


def _replace_models(policy: Policy, models: tuple[ModelPolicy, ...]) -> Policy:
    ids = [model.id for model in models]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        remedy = "choose another id for one of them with --sw-audit-model ID=SOURCE"
        raise PolicyError("--sw-audit-model", f"two models are called {twice!r}", remedy)
    return policy.model_copy(update={"models": models})


def _stem(path: Path) -> str:
    return path.name.removesuffix(SUFFIX).removesuffix(".toml") or "policy"
