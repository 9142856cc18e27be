"""Zero-shot tasks by lm-evaluation-harness, run on the open model as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.side_by_side import run_side_by_side
from sw_audit.checkpoint.suppress_output import quiet_libraries, suppress_output
from sw_audit.errors import CorpusError, PolicyError
from sw_audit.measure.engine import give_logits
from sw_audit.policy.policy import DescentPolicy
from sw_audit.record.descent import TaskResult

_KEY = "[descent] lm_eval"
_PREFERRED = ("acc", "exact_match", "em")
_SEED = 1234
_TOGETHER = 16
"""So many items are answered in words side by side, each with its own cache, by a model read as it runs."""


@dataclass(frozen=True)
class Answers:
    """What one model answered to one task, item by item: the item's name, and whether it was answered right."""

    task: str
    version: str
    metric: str
    items: tuple[str, ...]
    right: tuple[bool, ...]


def require_tasks(policy: DescentPolicy) -> None:
    """Check that the tasks can be run, as far as that is known without a model or a data set.

    Raises:
        PolicyError: If the harness is not installed, there is no such folder, or no task of a name.
    """
    if policy.lm_eval:
        _find_tasks(policy)


def _find_tasks(policy: DescentPolicy) -> Any:
    """Return the harness's register of tasks, in which all are that are asked for; see `require_tasks`."""
    if find_spec("lm_eval") is None:
        raise PolicyError(_KEY, "lm-evaluation-harness is not installed", "pip install 'sw-audit[lm-eval]'")
    if policy.lm_eval_path is not None and not Path(policy.lm_eval_path).is_dir():
        found = f"there is no folder {policy.lm_eval_path!r}"
        raise PolicyError(f"{_KEY}_path", found, "name a folder with task files (YAML)")
    # Its own files are thousands, and reading their headers takes long: none are read that are not asked for.
    for defaults in (False, True) if policy.lm_eval_path is not None else (True,):
        with _quiet_harness():
            from lm_eval.tasks import TaskManager

            register = TaskManager(include_path=policy.lm_eval_path, include_defaults=defaults)
        missing = [name for name in policy.lm_eval if name not in register.all_tasks]
        if not missing:
            return register
    near = get_close_matches(missing[0], register.all_tasks, 1)
    remedy = f"write {near[0]!r}" if near else "list them with `lm-eval ls tasks`"
    raise PolicyError(f"task {missing[0]!r} in `{_KEY}`", "lm-evaluation-harness has no such task", remedy)


def answer_tasks(checkpoint: Checkpoint, policy: DescentPolicy) -> tuple[Answers, ...]:
    """Let a model answer the tasks that a policy asks for, without examples.

    A group, such as `mmlu`, is one task here: the items of all its tasks together.

    Raises:
        PolicyError: If the harness is not installed, or there is no task of a name.
        CorpusError: If a task cannot be run, such as for want of its data set, or its items have no metric that is
            right or wrong.
    """
    if not policy.lm_eval:
        return ()
    register = _find_tasks(policy)
    answered = []
    for name in policy.lm_eval:
        try:
            results = _evaluate(checkpoint, register, name, policy.lm_eval_limit)
        except Exception as error:
            # The harness and what it fetches data sets with raise whatever they please.
            because = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            remedy = "see that its data set can be had here, or take it off the list"
            raise CorpusError(f"task {name!r} in `{_KEY}`", because, remedy) from error
        answered.append(_collect(name, results))
    return tuple(answered)


def pair_answers(parent: Sequence[Answers], descendant: Sequence[Answers]) -> tuple[TaskResult, ...]:
    """Put what both models answered side by side, item by item; items that only one was given are left out."""
    by_task = {(answers.task, answers.metric): answers for answers in descendant}
    results = []
    for theirs in parent:
        ours = by_task.get((theirs.task, theirs.metric))
        if ours is None:
            continue
        right = dict(zip(ours.items, ours.right, strict=True))
        both = [(was, right[item]) for item, was in zip(theirs.items, theirs.right, strict=True) if item in right]
        results.append(
            TaskResult(
                task=theirs.task,
                version=theirs.version,
                metric=theirs.metric,
                parent=tuple(was for was, _ in both),
                descendant=tuple(now for _, now in both),
            )
        )
    return tuple(results)


def _evaluate(checkpoint: Checkpoint, register: Any, name: str, limit: int | None) -> Mapping[str, Any]:
    with _quiet_harness():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        class ReadOnce(HFLM):  # type: ignore[misc]
            """The harness's model, whose weights are read once for all items, with what it would give anyway."""

            def _loglikelihood_tokens(self, *given: Any, **named: Any) -> Any:
                batches: list[Tensor] = []
                self.answer: Callable[[Tensor], Tensor] = partial(_note, batches, checkpoint.vocabulary)
                super()._loglikelihood_tokens(*given, **named)
                # It asks for the same again in the same order.
                logits = give_logits(checkpoint, batches)
                self.answer = lambda _: next(logits)
                return super()._loglikelihood_tokens(*given, **named)

            def _model_call(self, inps: Tensor, *_: Any, **__: Any) -> Tensor:
                logits: Tensor = self.answer(inps)
                return logits

            def generate_until(self, requests: Sequence[Any], *given: Any, **named: Any) -> list[str]:
                answer = super().generate_until
                jobs = [partial(answer, [one], *given, **named) for one in requests]
                parts = [jobs[begin : begin + _TOGETHER] for begin in range(0, len(jobs), _TOGETHER)]
                return [text for part in parts for [text] in run_side_by_side(checkpoint, part)]

        model = (ReadOnce if checkpoint.is_streamed else HFLM)(
            pretrained=checkpoint.model,
            tokenizer=checkpoint.tokenizer,
            add_bos_token=checkpoint.start.bos is not None,
            batch_size=1,
        )
        results: Mapping[str, Any] = simple_evaluate(
            model,
            tasks=[name],
            num_fewshot=0,
            limit=limit,
            # Intervals are the judge's business.
            bootstrap_iters=0,
            task_manager=register,
            random_seed=_SEED,
            numpy_random_seed=_SEED,
            torch_random_seed=_SEED,
            fewshot_random_seed=_SEED,
        )
        return results


def _note(batches: list[Tensor], vocabulary: int, token_ids: Tensor) -> Tensor:
    """Take note of token ids, [sequences, tokens], and return logits that say nothing."""
    batches.append(token_ids)
    return torch.zeros(1, 1, 1, device=token_ids.device).expand(*token_ids.shape, vocabulary)


def _collect(name: str, results: Mapping[str, Any]) -> Answers:
    """Take the items of a task, or of all tasks of a group, with the first metric that is 0 or 1 in all."""
    rows = {
        f"{task}/{row['doc_id']}": row
        for task, samples in sorted(results["samples"].items())
        for row in sorted(samples, key=lambda sample: sample["doc_id"])
    }
    metrics = next(iter(rows.values())).get("metrics", ()) if rows else ()
    preferred = sorted(
        metrics, key=lambda metric: _PREFERRED.index(metric) if metric in _PREFERRED else len(_PREFERRED)
    )
    for metric in preferred:
        if all(row.get(metric) in (0, 1) for row in rows.values()):
            versions = dict(results.get("versions", {}))
            version = versions.get(name, next(iter(versions.values()), ""))
            return Answers(
                name, str(version), metric, tuple(rows), tuple(bool(row[metric]) for row in rows.values())
            )
    asked = f"task {name!r} in `{_KEY}`"
    found = "its items have no metric that is right or wrong" if rows else "it has no items"
    raise CorpusError(asked, found, "choose a task of multiple choice, or one with exact matches")


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Keep the harness, its bars and the libraries under it from the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    with quiet_libraries(), suppress_output():
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
