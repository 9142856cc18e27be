"""Finds out whether a model's activations can be quantized, what SmoothQuant can smooth, and the best alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sw_audit.arms.activations import explain_unroundable
from sw_audit.checkpoint.matrices import list_projections
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.calibration import record_calibrations
from sw_audit.policy.scheme import ActivationSetup, AlphaSearch, AlphaTrial
from sw_audit.record.arm import BASELINE, Arm, Smooth

_CHOOSING = 4
"""Of so many calibration windows, alpha is chosen on one and the ranges are learned on the others."""
_WINDOWS, _TOKENS = 8, 32
"""Windows, and tokens of each, that are enough to choose by. On SmolLM2-135M-Instruct each of eight such samples
puts five alphas in the order in which many more tokens put them; by loss three of them choose another one."""


def prepare_activations(
    checkpoint: Checkpoint,
    prompt: Sequence[int],
    calibration: Windows | None,
    trials: Mapping[str, Sequence[Arm]],
) -> ActivationSetup:
    """Find out whether activations can be quantized, what can be smoothed, and which alpha is best.

    SmoothQuant's alpha is searched on calibration text alone, per scheme with one arm per alpha to try. Of every
    four windows, ranges are learned on three, and the divergence from the model as it is, KL(model || arm), is
    measured on the fourth; the alpha with the smallest is chosen. The beginnings of a few windows are enough, for
    divergence, unlike loss, hardly depends on the text. One window is too few for both. Running the prompt,
    any token ids, shows which norm feeds which projection. The model is bit-identical afterwards.
    """
    if (reason := explain_unroundable(checkpoint.layers)) is not None:
        return ActivationSetup(unroundable=reason)
    unsmoothable, smoothed, projections = _survey(checkpoint, prompt)
    windows, tokens = (0, 0) if calibration is None else calibration.token_ids.shape
    searches: tuple[AlphaSearch, ...] = ()
    if calibration is not None and windows > 1 and unsmoothable is None and any(trials.values()):
        searches = _search(checkpoint, calibration, trials)
    return ActivationSetup(
        unsmoothable=unsmoothable,
        smoothed=smoothed,
        projections=projections,
        calibration_windows=windows,
        calibration_tokens=windows * tokens,
        searches=searches,
    )


def _survey(checkpoint: Checkpoint, prompt: Sequence[int]) -> tuple[str | None, int, int]:
    """Return why SmoothQuant does not apply, if so, how many projections it smooths, and how many there are."""
    calibrations = record_calibrations(checkpoint, prompt)
    feeds = [feed for calibration in calibrations if calibration is not None for feed in calibration.feeds]
    smoothed = sum(len(feed.parameters) for feed in feeds if feed.weighted)
    count = sum(len(list(list_projections(layer.module, layer.name))) for layer in checkpoint.layers)
    if smoothed:
        return None, smoothed, count
    if feeds:
        return "its norms have no weights to fold scales into", 0, count
    return "no projection reads a norm's output as it is", 0, count


def _search(
    checkpoint: Checkpoint, calibration: Windows, trials: Mapping[str, Sequence[Arm]]
) -> tuple[AlphaSearch, ...]:
    token_ids, first_scored = calibration.token_ids[:_WINDOWS, :_TOKENS], calibration.first_scored[:_WINDOWS]
    choosing = torch.arange(len(token_ids)) % _CHOOSING == 1
    scored, unscored = (
        Windows(token_ids[part], first_scored[part], calibration.stride, calibration.bos)
        for part in (choosing, ~choosing)
    )
    arms = [BASELINE, *(arm for tried in trials.values() for arm in tried)]
    measured = measure_arms(checkpoint, arms, scored, protocol="calibration", calibration=unscored)
    by_arm = {measurement.arm: measurement for measurement in measured}
    searches = []
    for scheme, tried in trials.items():
        alphas = [act.alpha for arm in tried for act in arm.acts if isinstance(act, Smooth)]
        tries = tuple(
            AlphaTrial(
                alpha=alpha, nats=by_arm[arm].loss.mean_nats, divergence=by_arm[arm].agreement.mean_divergence
            )
            for alpha, arm in zip(alphas, tried, strict=True)
        )
        finite = [(trial.divergence, number) for number, trial in enumerate(tries) if trial.divergence is not None]
        chosen = tries[min(finite)[1]].alpha if finite else None
        searches.append(AlphaSearch(scheme=scheme, trials=tries, chosen=chosen))
    return tuple(searches)
