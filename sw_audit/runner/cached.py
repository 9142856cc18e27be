"""Measures one model of a policy, or remembers what was measured of the very same files, text and policy."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sw_audit.errors import AuditError
from sw_audit.fact import digest_fact
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.baselines import find_baseline
from sw_audit.record.environment import list_versions
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.runner import audit
from sw_audit.runner.arm_cache import ArmCache
from sw_audit.runner.cache import Cache, Question, digest_program

if TYPE_CHECKING:
    from sw_audit.checkpoint.opening import Checkpoint

REMEMBERED = (
    "Remembered from an earlier run: model, text, policy and program have not changed since (`--no-cache`)."
)

# What only decides how measurements are judged and shown, not what is measured.
_SHOWN = ("waiver", "inconclusive")
_JUDGED = ("expect", "confidence", "resamples", "minimum_windows")
_LIMITS = ("minimum_", "maximum_", "enabled")
# The checks for which a parent is asked to answer by itself.
_ASKED_OF_PARENTS = ("generation-sane", "task-accuracy")
# What is in the question by its content, not by its name.
_BY_CONTENT = ("model", "compare", "index")


def measure_or_recall(
    model_id: str,
    policy: Policy,
    checks: Collection[str],
    progress: Progress = ignore_progress,
    checkpoint: Checkpoint | None = None,
    cache: Cache | None = None,
) -> ModelResult | ModelFailure:
    """Find and measure everything that the selected checks need to know about one model, unless it is known.

    Args:
        model_id: Id of one of the policy's models.
        policy: The policy.
        checks: Ids of the selected checks.
        progress: Told where the work stands.
        checkpoint: The model, if it is open already.
        cache: Where it is remembered; `None` remembers nothing.

    Raises:
        KeyError: If the policy has no such model.
        InputError: If the model or the text cannot be used.
    """
    if cache is None:
        return audit.measure_model(model_id, policy, checks, progress, checkpoint)
    progress("digesting", 0, 1)
    memory = make_memory(policy, policy.find_model(model_id), cache)
    question = None if memory is None else describe_question(policy, policy.find_model(model_id), checks, memory)
    if memory is None or question is None:
        return audit.measure_model(model_id, policy, checks, progress, checkpoint)
    if (known := cache.find("evidence", question, ModelResult)) is not None:
        return known.model_copy(update={"notes": (*known.notes, REMEMBERED)})
    memory = replace(memory, whole=question, parent=describe_parent(question))
    found = audit.measure_model(model_id, policy, checks, progress, checkpoint, memory)
    if not isinstance(found, ModelResult):
        return found
    cache.keep("evidence", question, found)
    told = () if cache.trouble is None else (f"Nothing could be remembered for the next run: {cache.trouble}.",)
    return found.model_copy(update={"notes": (*found.notes, *told)})


def make_memory(policy: Policy, model: ModelPolicy, cache: Cache) -> ArmCache | None:
    """Say what all figures of a model rest on; `None` where that cannot be told from files here.

    A model that runs code of its own is not remembered, for that code may come from elsewhere.
    """
    from sw_audit.corpus.choices import read_choices
    from sw_audit.corpus.stopwords import list_stop_words

    try:
        content = describe_content(model)
        items = read_choices(policy.corpus)
    except (AuditError, OSError):
        return None  # measuring will say what is wrong
    if content is None:
        return None
    return ArmCache(
        cache,
        model={
            "content": content,
            "dtype": model.dtype,
            "device": model.device,
            "gguf": model.gguf,
            "program": digest_program(),
            "packages": list_versions(),
            "machine": platform.machine(),
        },
        text={
            "stop_words": list(list_stop_words(policy.corpus)),
            "choices": None if items is None else _digest_text(repr(items)),
            "calibration": policy.activations.calibration_windows,
        },
    )


def describe_question(
    policy: Policy, model: ModelPolicy, checks: Collection[str], memory: ArmCache
) -> Question | None:
    """Say what everything rests on that is found out about a model; `None` where that cannot be told."""
    from sw_audit.corpus.text import read_corpus

    parent = policy.find_parent(model)
    texts = (policy.corpus, *(policy.descent.texts if parent else ()))
    try:
        baseline = find_baseline(policy, model)
        origin = None if parent is None else describe_content(parent)
        if parent is not None and origin is None:
            return None
        return {
            **memory.model,
            **memory.text,
            "asked": model.model_dump(mode="json"),
            "parent": parent and {"asked": parent.model_dump(mode="json"), "content": origin},
            "checks": sorted(checks),
            "policy": describe_policy(policy, descends=parent is not None),
            "texts": [read_corpus(text).identity.sha256 for text in texts],
            "files": [_digest_path(path) for path in (policy.index, model.manifest)],
            "tasks": _digest_tree(policy.descent.lm_eval_path) if parent else None,
            "baseline": None if baseline is None else digest_fact(baseline),
        }
    except (AuditError, OSError):
        return None


def describe_parent(question: Question) -> Question:
    """Say what that rests on that is found out about a parent alone: it serves every descendant of it."""
    if question["parent"] is None:
        return {}
    own = ("parent", "program", "packages", "machine", "texts", "tasks")
    kept = {key: question[key] for key in own}
    wanted = {key: question["policy"][key] for key in ("corpus", "descent", "seed")}
    return {**kept, "policy": wanted, "checks": [one for one in question["checks"] if one in _ASKED_OF_PARENTS]}


def describe_content(model: ModelPolicy) -> list[str] | None:
    """Return the digests of all files of a model, and of the base model of an adapter; `None` if not all are here.

    Raises:
        CheckpointError: If it is not there.
    """
    from sw_audit.checkpoint.digest import digest_content
    from sw_audit.checkpoint.folder import CheckpointFolder

    folder = CheckpointFolder.require(model)
    if model.trust_remote_code:
        return None
    own = digest_content(folder.path)
    base = folder.format.find_base(folder)
    below = [] if base is None else describe_content(base)
    return None if below is None else [own, *below]


def describe_policy(policy: Policy, *, descends: bool) -> dict[str, Any]:
    """Return what of a policy decides what is measured.

    Beside a parent it is measured how much putting parts back recovers where quality fails, so limits count there.
    """
    content: dict[str, Any] = policy.model_dump(mode="json", by_alias=True)
    for key in (*_SHOWN, *_BY_CONTENT, *(() if descends else _JUDGED)):
        del content[key]
    if not descends:
        del content["descent"]
        content["checks"] = {
            check: {key: limit for key, limit in limits.items() if not key.startswith(_LIMITS)}
            for check, limits in content["checks"].items()
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
