"""How to do it again: the command for one check, and the policy as a file."""

from __future__ import annotations

import shlex

import tomlkit

from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.measurement import ROUND_TO_NEAREST
from sw_audit.record.record import Record

POLICY_FILE = "audit.swaudit.toml"
_DEFAULTS: dict[str, object] = {
    "dtype": "auto",
    "device": "cpu",
    "expect": Policy().expect,
    "corpus": Policy().corpus.source,
    "windows": Policy().corpus.windows,
    "inconclusive": Policy().inconclusive,
    "seed": Policy().seed,
    "index": Policy().index,
    "compare": Policy().compare,
    "parent": None,
}
_OFFERED = ("dtype", "device", "expect", "parent")
"""What there is an option for, of the keys of a model."""


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
    if says_more_than_options(policy):
        return shlex.join(["sw-audit", "audit", POLICY_FILE, "--check", check])
    asked = next((model for model in policy.models if model.id == model_id), ModelPolicy(source=source))
    said: dict[str, object] = {
        "dtype": asked.dtype,
        "device": asked.device,
        "expect": policy.expectation(asked),
        "corpus": policy.corpus.source,
        "windows": policy.corpus.windows,
        "inconclusive": policy.inconclusive,
        "seed": policy.seed,
        "index": policy.index,
        "compare": policy.compare,
        "parent": parent.source if (parent := policy.find_parent(asked)) else None,
    }
    options = [word for key, value in said.items() if value != _DEFAULTS[key] for word in (f"--{key}", str(value))]
    usual = ModelPolicy(source=source).id
    target = source if model_id == usual else f"{model_id}={source}"
    return shlex.join(["sw-audit", "audit", target, "--check", check, *options])


def write_comparison_command(record: Record) -> str:
    """Write the command that repeats a comparison of quantizers, with the policy saved as a file."""
    result = record.results[0]
    model = result.model
    asked = next((one for one in record.policy.models if one.id == model.id), ModelPolicy(source=model.source))
    said = {"revision": asked.revision, "dtype": asked.dtype, "device": asked.device}
    usual = {"revision": None, "dtype": "auto", "device": "cpu"}
    options = [word for key, value in said.items() if value != usual[key] for word in (f"--{key}", str(value))]
    rows = result.comparison.rows if result.comparison else ()
    methods = [row.method for row in rows if row.method != ROUND_TO_NEAREST] or ["none"]
    command = ["sw-audit", "compare-quantizers", model.source, "--policy", POLICY_FILE]
    return shlex.join([*command, "--methods", ",".join(methods), *options])


def says_more_than_options(policy: Policy) -> bool:
    """Say whether the policy holds anything that the options of the command line cannot express."""
    corpus = policy.corpus.model_copy(
        update={"source": _DEFAULTS["corpus"], "windows": _DEFAULTS["windows"]},
    )
    changes = {
        "models": (),
        "corpus": corpus,
        **{key: _DEFAULTS[key] for key in ("expect", "inconclusive", "seed", "index", "compare")},
    }
    hidden = any(
        model.model_dump(exclude={"id", "source", *_OFFERED}, exclude_defaults=True) for model in policy.models
    )
    return hidden or policy.model_copy(update=changes) != Policy()


def write_policy(policy: Policy) -> str:
    """Write a policy as a TOML file that reads back as the same policy."""
    return tomlkit.dumps(policy.model_dump(mode="json", by_alias=True, exclude_none=True))
