"""Paths in a policy file are taken from the folder that it lies in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sw_audit.policy.policy import CorpusPolicy, Policy


def anchor_paths(policy: Policy, folder: Path) -> Policy:
    """Take the relative paths in a policy from the folder that it lies in.

    What neither exists there nor begins with a dot is the id of a model, an entry or a data set, and stays as it
    is; the policy's index, manifests and the folder of tasks are always files. A parent that is another of the
    policy's models is named by its id.
    """
    from sw_audit.record.baselines import is_name

    def anchor(source: str) -> str:
        place = folder / Path(source).expanduser()
        if source in ("specimen", "none") or not (source.startswith((".", "~")) or place.exists()):
            return source
        path = os.path.relpath(place)
        return path if place.exists() else f"./{path}"  # or it would read as a hub id

    def anchor_file(path: str | None) -> str | None:
        return path and os.path.relpath(folder / Path(path).expanduser())

    def anchor_text(text: CorpusPolicy) -> CorpusPolicy:
        return text.model_copy(
            update={"source": anchor(text.source), "choices": text.choices and anchor(text.choices)}
        )

    ids = {model.id for model in policy.models}
    models = tuple(
        model.model_copy(
            update={
                "source": anchor(model.source),
                "index": model.index and anchor(model.index),
                "parent": model.parent if model.parent in (None, *ids) else anchor(model.parent or ""),
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
        }
    )
    compare = policy.compare if policy.compare is None or is_name(policy.compare) else anchor(policy.compare)
    update = {"models": models, "corpus": anchor_text(policy.corpus), "descent": descent, "compare": compare}
    return policy.model_copy(update={**update, "index": anchor_file(policy.index)})
