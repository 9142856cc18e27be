"""How to do it again: the command for one check, and the policy as a file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import tomlkit

from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.printable import printable
from sw_audit.record.measurement import ROUND_TO_NEAREST
from sw_audit.record.record import Record

POLICY_FILE = "audit.swaudit.toml"
_USUAL = Policy()
# What there is an option for, of the keys of a policy and of a model.
_OF_POLICY = ("expect", "inconclusive", "seed", "index", "compare")
_OF_MODEL = ("dtype", "device", "expect", "parent")
_DEFAULTS: Mapping[str, object] = {
    "dtype": "auto",
    "device": "cpu",
    "revision": None,
    "parent": None,
    "corpus": _USUAL.corpus.source,
    "windows": _USUAL.corpus.windows,
    **{key: getattr(_USUAL, key) for key in _OF_POLICY},
}


def find_asked(policy: Policy, model_id: str, source: str) -> ModelPolicy:
    """Find what the policy says of a model; nothing but its source if it does not name it."""
    named = next((model for model in policy.models if model.id == model_id), None)
    return named or ModelPolicy(source=printable(source) or "model")


def write_command(source: str, check: str, policy: Policy, model_id: str) -> str:
    """Write the command that repeats one check on one model.

    Where the policy says more than the command line can, the command names the policy file instead, whose
    text the report holds.

    Args:
        source: Path or hub id of the model, as the user gave it.
        check: Id of the check.
        policy: The policy of the audit.
        model_id: Id of the model in that policy.
    """
    if _says_more_than_options(policy):
        return shlex.join(["sw-audit", "audit", POLICY_FILE, "--check", check])
    asked = find_asked(policy, model_id, source)
    parent = policy.find_parent(asked)
    options = _write_options(
        dtype=asked.dtype,
        device=asked.device,
        expect=policy.expectation(asked),
        corpus=policy.corpus.source,
        windows=policy.corpus.windows,
        **{key: getattr(policy, key) for key in ("inconclusive", "seed", "index", "compare")},
        parent=parent.source if parent else None,
    )
    target = source if model_id == ModelPolicy(source=source).id else f"{model_id}={source}"
    strict = ["--strict"] if policy.laws == "gate" else []
    return shlex.join(["sw-audit", "audit", target, "--check", check, *strict, *options])


def write_comparison_command(record: Record) -> str:
    """Write the command that repeats a comparison of quantizers, with the policy saved as a file."""
    result = record.results[0]
    model = result.model
    asked = find_asked(record.policy, model.id, model.source)
    options = _write_options(revision=asked.revision, dtype=asked.dtype, device=asked.device)
    rows = result.comparison.rows if result.comparison else ()
    methods = [row.method for row in rows if row.method != ROUND_TO_NEAREST] or ["none"]
    command = ["sw-audit", "compare-quantizers", model.source, "--policy", POLICY_FILE]
    return shlex.join([*command, "--methods", ",".join(methods), *options])


def _write_options(**said: object) -> list[str]:
    return [word for key, value in said.items() if value != _DEFAULTS[key] for word in (f"--{key}", str(value))]


def _says_more_than_options(policy: Policy) -> bool:
    unsaid = {"id", "source", *_OF_MODEL}
    if any(model.model_dump(exclude=unsaid, exclude_defaults=True) for model in policy.models):
        return True
    corpus = policy.corpus.model_copy(update={key: getattr(_USUAL.corpus, key) for key in ("source", "windows")})
    changes = {"models": (), "corpus": corpus, "laws": _USUAL.laws, **{key: _DEFAULTS[key] for key in _OF_POLICY}}
    return policy.model_copy(update=changes) != _USUAL


def write_policy(policy: Policy) -> str:
    """Write a policy as a TOML file that reads back as the same policy."""
    return tomlkit.dumps(policy.model_dump(mode="json", by_alias=True, exclude_none=True))
