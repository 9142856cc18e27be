"""The search for critical scalars, as a policy asks for it."""

from __future__ import annotations

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.critical.search import search_by_policy
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location
from sw_audit.runner.single import locate_model
from sw_audit.runner.text import settle_corpus

OWN_TEXT = "own"
"""What is asked for in place of a text where the model is to write it."""


def search_model(
    model: ModelPolicy, policy: Policy, progress: Progress = ignore_progress
) -> tuple[ModelIdentity, Location, CriticalSearch]:
    """Open a model, locate its super weights, and search it for all scalars that matter.

    Raises:
        InputError: If the model or the text cannot be used.
    """
    own = policy.corpus.source == OWN_TEXT
    policy = policy if own else settle_corpus(policy, model)
    progress(f"opening {model.source}", 0, 1)
    checkpoint = open_checkpoint(model).starting(policy.bos_rule(model))
    progress("locating", 0, 1)
    location = locate_model(checkpoint)
    text = None if own else policy.corpus
    location, search = search_by_policy(checkpoint, text, location, policy, in_audit=False, progress=progress)
    return checkpoint.identity, location, search
