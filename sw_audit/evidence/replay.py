"""A record measured again: whether its verdicts reproduce, and in what the two runs differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from sw_audit.errors import InputError
from sw_audit.evidence.files import verify_weights
from sw_audit.evidence.merge import Given, merge_records
from sw_audit.evidence.verify import LAST_DIGITS
from sw_audit.policy.policy import Policy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.identity import compare_protocols
from sw_audit.record.record import AuditedModel, ModelFailure, ModelResult, Record
from sw_audit.record.subjects import Subject, list_subjects
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.pair import Parents
from sw_audit.runner.run import compose_record, preflight, run_model
from sw_audit.specimen.shipped import find_shipped

Show: TypeAlias = Callable[[str], AbstractContextManager[Progress]]
_DTYPES = ("float32", "bfloat16", "float16")
_PATHS = {"source", "parent", "base", "adapter", "manifest", "index", "compare", "choices", "lm_eval_path"}
_PATHS |= {"decisions"}
"""Keys of a policy that may hold a path."""


class Agreement(StrEnum):
    """How a verdict that was measured again agrees with the recorded one."""

    EXACT = "exact"
    WITHIN = "within"
    OPEN = "cannot be told"
    DIFFERS = "differs"


@dataclass(frozen=True)
class Replayed:
    """One verdict, then and now.

    Attributes:
        model: Id of the model.
        check: Id of the check.
        agreement: How they agree; the first two reproduce.
        because: Why, as a clause.
        then: The recorded verdict.
        now: What it came to now; `None` if there is none.
    """

    model: str
    check: str
    agreement: Agreement
    because: str
    then: Verdict
    now: Verdict | None = None


@dataclass(frozen=True)
class Replay:
    """A record measured again.

    Attributes:
        record: What came out.
        verdicts: Every verdict that was replayed.
        differences: In what tool and environment differ, a clause each.
    """

    record: Record
    verdicts: tuple[Replayed, ...]
    differences: tuple[str, ...]

    @property
    def reproduced(self) -> bool | None:
        """Whether every verdict reproduces; `None` where it cannot be told, or all were skipped."""
        found = {one.agreement for one in self.verdicts}
        if Agreement.DIFFERS in found:
            return False
        skipped = all(one.then.status is Status.SKIPPED for one in self.verdicts)
        return None if skipped or Agreement.OPEN in found else True


def replay_record(
    record: Record,
    checks: Collection[str] = (),
    places: Mapping[str, str] | None = None,
    show: Show | None = None,
) -> Replay:
    """Measure the models of a record again, by its own policy, seed and pins, and hold the verdicts side by side.

    Nothing is taken from the cache, and the policy's time budget is left out.

    Args:
        record: The record of an audit, or of several that were merged.
        checks: Ids of the only checks to replay; by default all that were judged.
        places: Where weights lie now, by the id of a model or parent; by default where the record says.
        show: Gives what is told where the work stands, on the weights of all models and then on each model.

    Raises:
        InputError: If the weights are not at hand or not those of the record, or nothing of it can be replayed.
    """
    judged = {verdict.check for verdict in record.verdicts}
    for check in checks:
        if check not in judged:
            near = get_close_matches(check, judged, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(sorted(judged))}"
            raise InputError(f"check {check!r}", "the record holds no verdict of it", remedy)
    if not judged:
        raise InputError("a replay", "the record holds no verdict", "give the record of an audit")
    show = show or _show_nothing
    with show("weights") as progress:
        parts = [(part, _prepare(part, places or {}, progress)) for part in record.parts]
    again = [_measure(part, policy, checks, show) for part, policy in parts]
    replayed, differences = [], []
    for (then, _), now in zip(parts, again, strict=True):
        differences += [one for one in list_differences(then, now) if one not in differences]
        for old, new in zip([one for one in then.models if _choose(one, checks)], now.models, strict=True):
            replayed += list(compare_models(old, new, then, now, checks))
    whole = merge_records([Given(one, "record") for one in again]) if record.sources else again[0]
    return Replay(whole, tuple(replayed), tuple(differences))


def _choose(model: AuditedModel, checks: Collection[str]) -> list[str]:
    return [verdict.check for verdict in model.verdicts if not checks or verdict.check in checks]


def _prepare(part: Record, places: Mapping[str, str], progress: Progress) -> Policy:
    """Return the policy with every model where it lies now, after its weights were held against their digests."""
    for audited in part.results:
        if audited.model.in_place:
            problem = "it was in memory when it was audited, and no files are known to hold it"
            raise InputError(f"model {audited.id}", problem, "audit it from its files, and replay that record")
    found = {one.name: _check_weights(one, places, progress) for one in list_subjects(part)}
    for name, place in places.items():
        found.setdefault(name, place)
    policy = Policy.model_validate(_expand(part.policy.model_dump(mode="python", by_alias=True)))
    results = {result.id: result for result in part.results}
    models = []
    for model in policy.models:
        update: dict[str, object] = {"source": found.get(model.id) or model.source}
        result = results.get(model.id)
        if result is not None and model.dtype == "auto" and result.quantization is None:
            update["dtype"] = result.model.dtype if result.model.dtype in _DTYPES else "auto"
        if result is not None and model.base and (base := found.get(f"{model.id} (base)")):
            update["base"] = base
        descent = None if result is None else result.descent
        if descent is not None and model.parent not in results and (parent := found.get(descent.parent.id)):
            update["parent"] = parent
        models.append(model.model_copy(update=update))
    return policy.model_copy(update={"models": tuple(models), "budget": None})


def _expand(value: Any, key: str = "") -> Any:
    """Write out the home folder in what may be a path."""
    if isinstance(value, dict):
        return {name: _expand(part, name) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_expand(part, key) for part in value)
    return str(Path(value).expanduser()) if key in _PATHS and str(value).startswith("~") else value


def _check_weights(subject: Subject, places: Mapping[str, str], progress: Progress) -> str | None:
    """Return where weights lie, after their digests were compared; `None` if they are fetched when opened."""
    place = places.get(subject.name) or str(Path(subject.source).expanduser())
    if not Path(find_shipped(place)).exists() and subject.name not in places:
        shipped = find_shipped(Path(place).name)
        if Path(shipped).exists():
            place = shipped
        elif _is_hub_id(subject.source):
            return None
        else:
            remedy = f"say where it lies now: --model {subject.name}=PATH"
            raise InputError(f"model {subject.name}", f"there is nothing at {place}", remedy)
    _, doubts = verify_weights([subject], [f"{subject.name}={place}"], progress)
    if doubts:
        remedy = f"give the weights of the record: --model {subject.name}=PATH"
        raise InputError(f"model {subject.name} at {place}", f"{doubts[0]}", remedy)
    return find_shipped(place)


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith(("/", ".", "~"))


def _measure(part: Record, policy: Policy, checks: Collection[str], show: Show) -> Record:
    preflight(policy)
    models, parents = [], Parents()
    for model in part.models:
        if selected := _choose(model, checks):
            with show(model.id) as progress:
                models.append(run_model(policy, model.id, selected, progress=progress, parents=parents))
    return compose_record(models, policy)


def _show_nothing(_name: str) -> AbstractContextManager[Progress]:
    return nullcontext(ignore_progress)


def list_differences(then: Record, now: Record) -> Iterator[str]:
    """Say in what tool and environment of two records differ, a clause each."""
    pairs = [(f"{then.tool.name}", then.tool.version, now.tool.version)]
    old, new = then.environment, now.environment
    pairs += [("Python", old.python, new.python), ("platform", old.platform, new.platform)]
    pairs += [("threads", str(old.threads), str(new.threads))]
    names = dict.fromkeys([*old.packages, *new.packages])
    pairs += [
        (name, old.packages.get(name, "none"), new.packages.get(name, "none"))
        for name in names
        if name != then.tool.name
    ]
    return (f"{what} {was} then, {here} now" for what, was, here in pairs if was != here)


def compare_models(
    old: AuditedModel, new: AuditedModel, then: Record, now: Record, checks: Collection[str] = ()
) -> Iterator[Replayed]:
    """Hold every verdict on a model beside what it came to when it was measured again."""
    judged = {verdict.check: verdict for verdict in new.verdicts}
    alike = not list(list_differences(then, now))
    windows = [_count_windows(model) for model in (old, new)]
    amounts = "" if windows[0] == windows[1] else f"; {windows[0]} windows were measured then, {windows[1]} now"
    for verdict in old.verdicts:
        if checks and verdict.check not in checks:
            continue
        again = judged.get(verdict.check)
        reason = _find_obstacle(old, new)
        if again is None:
            agreement, because = Agreement.DIFFERS, reason or "it was not judged again"
        elif reason is not None:
            agreement, because = (Agreement.DIFFERS if alike else Agreement.OPEN), reason
        else:
            same_tool, same_text = then.tool == now.tool, not amounts
            agreement, because = compare_verdicts(verdict, again, alike and same_text, same_tool)
            because += amounts if agreement is Agreement.OPEN else ""
        yield Replayed(old.id, verdict.check, agreement, because, verdict, again)


def _find_obstacle(old: AuditedModel, new: AuditedModel) -> str | None:
    """Say why no figures of two measured models can be compared; `None` where they can."""
    if isinstance(new, ModelFailure):
        return None if isinstance(old, ModelFailure) else new.message
    if isinstance(old, ModelFailure):
        return f"then {old.message}"
    if old.model.digest and new.model.digest != old.model.digest:
        return f"other weights: digest {old.model.digest[:12]} then, {new.model.digest[:12] or 'none'} now"
    for was, here in zip(_list_protocols(old), _list_protocols(new), strict=False):
        if not was.measures_as(here):
            return f"another protocol: {compare_protocols(was, here)}"
    return None


def _count_windows(model: AuditedModel) -> int:
    """Count the windows that the model was measured on as it is: fewer checks may need fewer."""
    unedited = model.unedited if isinstance(model, ModelResult) else None
    return 0 if unedited is None else len(unedited.loss.tokens)


def _list_protocols(result: ModelResult) -> Sequence[Any]:
    texts = () if result.descent is None else result.descent.texts
    return [result.protocol, *(text.protocol for text in texts)]


def compare_verdicts(then: Verdict, now: Verdict, alike: bool, same_tool: bool) -> tuple[Agreement, str]:
    """Tell whether a verdict reproduces: the same status, and a figure within the recorded interval.

    Args:
        then: The recorded verdict.
        now: What it came to when it was measured again, by the same protocol.
        alike: Whether tool, environment and amount of text are the same, so that a figure without an interval has
            to be.
        same_tool: Whether the tool's version is.

    Returns:
        How they agree, and why, as a clause.
    """
    differs = Agreement.DIFFERS if alike else Agreement.OPEN
    if then.status is not now.status:
        told = f"{then.status.upper()} then, {now.status.upper()} now"
        return (Agreement.DIFFERS if same_tool else Agreement.OPEN), told
    same = _is_same(then, now)
    if then.observed is None or now.observed is None:
        if same:
            skipped = then.status is Status.SKIPPED
            return Agreement.EXACT, "skipped both times" if skipped else "the same, without a figure"
        if (then.observed is None) != (now.observed is None):
            return Agreement.DIFFERS, f"{_write(then.observed)} then, {_write(now.observed)} now"
        return differs, "it has no figure, and what it counts is not the same"
    if same:
        return Agreement.EXACT, f"exactly {_write(then.observed)}"
    figures = f"{_write(then.observed)} then, {_write(now.observed)} now"
    if then.low is None and then.high is None:
        if math.isclose(then.observed, now.observed, rel_tol=LAST_DIGITS):
            return Agreement.WITHIN, f"{figures}: the same but for the last digits"
        return differs, f"{figures}, and there is no interval"
    low, high = _span(then)
    if low <= now.observed <= high:
        return Agreement.WITHIN, f"{figures}, within the interval"
    least, most = _span(now)
    if (now.low is not None or now.high is not None) and least <= high and low <= most:
        return Agreement.WITHIN, f"{figures}, and the intervals overlap"
    return Agreement.DIFFERS, f"{figures}, outside the interval"


def _is_same(then: Verdict, now: Verdict) -> bool:
    keys = ("observed", "low", "high", "counts", "coordinates")
    return all(getattr(then, key) == getattr(now, key) for key in keys)


def _span(verdict: Verdict) -> tuple[float, float]:
    low = -math.inf if verdict.low is None else verdict.low
    return low, math.inf if verdict.high is None else verdict.high


def _write(figure: float | None) -> str:
    return "no figure" if figure is None else f"{figure:.6g}"
