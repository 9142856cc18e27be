"""What the figures of a model rest on: the keys of the cache."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.digest import digest_manifest, digest_paths
from sw_audit.checks.registry import Need, find_checks, list_needs
from sw_audit.corpus.choices import list_stop_words, read_choices
from sw_audit.corpus.text import read_corpus
from sw_audit.errors import AuditError
from sw_audit.fact import digest_fact
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import list_versions
from sw_audit.record.store import find_baseline
from sw_audit.runner.cache import NO_CACHE, ArmCache, Cache, Question, digest_program
from sw_audit.runner.watching import WatchedFiles, find_folders

# What only decides how measurements are judged and shown, not what is measured.
_JUDGED = (
    "waiver",
    "laws",
    "inconclusive",
    "expect",
    "confidence",
    "minimum_windows",
    "budget",
    "memory",
    "unverified",
    "redaction",
)
# What a model by itself goes on with, of what is said of descendants.
_PROMPTS = ("prompt_tokens", "new_tokens", "long_new_tokens")
# What of a model says how its engine runs it.
_ENGINE = ("engine", "top_tokens", "kv_cache")
# What is in the question by its content, not by its name.
_BY_CONTENT = ("model", "compare", "index")


def open_arm_cache(
    policy: Policy,
    model: ModelPolicy,
    checks: Collection[str],
    cache: Cache,
    *,
    watched: WatchedFiles | None = None,
    saved: bool = False,
    progress: Progress = ignore_progress,
) -> ArmCache:
    """Say what the figures of a model rest on; where that cannot be told from files here, nothing is kept.

    A model that runs code of its own is not kept, for that code may come from elsewhere. `watched` knows the state
    that the files were in before they are digested here. Progress is told while files are digested.
    """
    parent = policy.find_parent(model)
    texts = (policy.corpus, *(policy.descent.texts if parent else ()))
    if model.url is not None or (parent is not None and parent.url is not None):
        return NO_CACHE  # what a server runs may be another model tomorrow
    asked = model.model_dump(mode="json")
    try:
        content = describe_content(model, progress)
        origin = None if parent is None else describe_content(parent, progress)
        merged = model.adapter and describe_content(ModelPolicy(source=model.adapter), progress)
        if content is None or (parent is not None and origin is None):
            return NO_CACHE
        items, baseline = read_choices(policy.corpus), find_baseline(policy, model)
        about_model = {
            "content": content,
            "dtype": model.dtype,
            "device": model.device,
            "gguf": model.gguf,
            "program": digest_program(),
            "packages": list_versions(),
            "machine": platform.machine(),
        }
        if model.in_engine:
            about_model["engine"] = {key: asked[key] for key in _ENGINE}
        about_text = {
            "stop_words": list(list_stop_words(policy.corpus)),
            "choices": None if items is None else _digest_text(repr(items)),
            "calibration": policy.activations.calibration_windows,
        }
        result = {
            **about_model,
            **about_text,
            "asked": asked,
            "adapter": merged,
            "parent": parent and {"asked": parent.model_dump(mode="json"), "content": origin},
            "checks": sorted(checks),
            "policy": describe_policy(policy, descends=parent is not None),
            "texts": [read_corpus(text).identity.sha256 for text in texts],
            "files": [_digest_path(path) for path in (policy.index, model.manifest)],
            "tasks": _digest_tree(policy.descent.lm_eval_path) if parent else None,
            "decisions": _digest_path(policy.descent.decisions) if parent else None,
            "baseline": None if baseline is None else digest_fact(baseline),
        }
        # A search goes on until its intervals are on one side of the limit.
        if Need.CRITICAL in list_needs(checks):
            result["search"] = {"confidence": policy.confidence, "minimum_windows": policy.minimum_windows}
    except (AuditError, OSError):
        return NO_CACHE  # measuring will say what is wrong
    judging = policy.model_dump(mode="json", by_alias=True, exclude={"models", "waivers", "redaction"})
    judged = {**result, "judging": judging, "saved": saved}
    staged = cache.stage("") if watched is None else cache.stage(watched.seen, watched.find_change)
    return ArmCache(staged, about_model, about_text, _describe_parent(result), result, judged)


def _describe_parent(result: Mapping[str, Any]) -> Question:
    """Say what that rests on that is found out about a parent alone: it serves every descendant of it."""
    if result["parent"] is None:
        return {}
    own = ("parent", "program", "packages", "machine", "texts", "tasks", "decisions", "search")
    policy = {key: result["policy"][key] for key in ("corpus", "critical", "descent", "effort", "seed")}
    needs = list_needs(result["checks"])
    met = (Need.GENERATION, Need.LENGTHS, Need.TASKS, Need.DECISIONS)
    asked = [need.name for need in met if need in needs]
    return {**{key: result.get(key) for key in own}, "policy": policy, "needs": asked}


def describe_content(model: ModelPolicy, progress: Progress = ignore_progress) -> list[str] | None:
    """Return the digests of all files of a model, and of the base model of an adapter; `None` if not all are here.

    Raises:
        CheckpointError: If it is not there.
    """
    folders = find_folders(model)
    if any(folder.policy.trust_remote_code for folder in folders):
        return None
    return [digest_manifest(digest_paths(folder.contents, folder.path, progress)) for folder in folders]


def describe_policy(policy: Policy, *, descends: bool) -> dict[str, Any]:
    """Return what of a policy decides what is measured; how it is judged does not."""
    content: dict[str, Any] = policy.model_dump(mode="json", by_alias=True)
    for key in (*_JUDGED, *_BY_CONTENT):
        del content[key]
    del content["descent"]["may_differ"]  # it only decides how settings are judged
    if not descends:
        content["descent"] = {key: content["descent"][key] for key in _PROMPTS}
    content["checks"] = {
        name: {key: content["checks"][name][key] for key in sorted(check.measured)}
        for name, check in find_checks().items()
    }
    return content


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_path(path: str | None) -> str | None:
    return path and hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()


def _digest_tree(folder: str | None) -> list[str] | None:
    root = folder and Path(folder).expanduser()
    if not root:
        return None
    return [
        f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
