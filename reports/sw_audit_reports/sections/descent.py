"""A model beside its parent: what was kept, what was lost, and what putting parts of the parent back recovers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import altair

from sw_audit.checks.recovery import HEALS, Tried, find_smallest, list_parts, list_swapped, trace_path
from sw_audit.checks.registry import find_checks
from sw_audit.checks.super_activation_retained import SuperActivationRetainedLimits
from sw_audit.checks.super_weight_retained import SuperWeightRetainedLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    RESTORED_WEIGHTS,
    Purpose,
    RestoredLayers,
    RestoredSet,
    RestoredWeights,
)
from sw_audit.record.descent import ComparedText, Descent, RetainedActivation, RetainedWeight
from sw_audit.record.labels import label_arm, label_restored
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Finding, Status, Verdict
from sw_audit_reports import plots, theme
from sw_audit_reports.elements import (
    Cell,
    Chart,
    Element,
    Table,
    Words,
    code,
    figures,
    make_paragraph,
    make_table,
    make_terms,
    split_code,
    text,
)
from sw_audit_reports.sections import Context, section
from sw_audit_reports.text import (
    NOT_FINITE,
    NOT_MEASURED,
    NOTHING,
    count,
    format_change,
    format_finite,
    format_interval,
    format_number,
    format_optional,
    format_percent,
    format_percent_interval,
    format_range,
    format_ratio,
)
from sw_audit_reports.theme import Rows, keep_seen, make_chart
from sw_audit_reports.verdicts import estimate_perplexity, list_on_texts

THE_PARENT, THIS_MODEL = "Parent", "This model"
_PEAK_SERIES = {THE_PARENT: theme.INTACT, THIS_MODEL: theme.TOUCHED}
SO_FAR, ALONE = "All layers so far", "This layer alone, on the parent's input"
_NOISE_SERIES = {SO_FAR: theme.TOUCHED, ALONE: theme.INTACT}
_ROOM = 35
"""Characters of a label that the chart of perplexities has room for, beside what is said of it."""


def summarize_descent(context: Context) -> Words:
    """Say in a sentence what a model is beside its parent: what it lost, and what brings it back."""
    descent = context.result.descent
    if descent is None:
        return []
    label, compared = next(iter(descent.label_texts().items()))
    held = list_on_texts(context.verdicts).get((label, DESCENDANT.name))
    ratio = divide_perplexity(compared.measured(DESCENDANT), compared.measured(PARENT))
    if (
        ratio is not None and held is not None and held.observed is not None
    ):  # on as much of the text as its interval
        ratio = held.observed
    interval = format_interval(held.low, held.high, held.limit) if held else ""
    lost = "Its perplexity is not finite"
    if ratio is not None:
        lost = " ".join(filter(None, ("Its perplexity is", format_ratio(ratio), interval, "times its parent's")))
    weights, recovery = _summarize_weights(descent, context.policy), _summarize_recovery(descent, context.verdicts)
    hidden = [] if held is not None and held.status is Status.FAIL else _summarize_files(context.verdicts)
    return [lost, *weights, *recovery, ".", *hidden]


def _summarize_files(verdicts: Sequence[Verdict]) -> Words:
    """Say what fails by the files alone, which no figure of quality shows."""
    known = find_checks()
    for verdict in verdicts:
        if verdict.status is Status.FAIL and verdict.check in known and known[verdict.check].static:
            return [" ", *split_code(verdict.because)]
    return []


@section("descent", title="Beside its parent", order=20, summarize=summarize_descent)
def show_descent(context: Context) -> Iterator[Element | None]:
    """Compare a model with its parent: weights, activations, quality, errors, recovery, tasks."""
    descent, verdicts, anchor = context.result.descent, context.verdicts, context.anchor
    if descent is None:
        return
    yield make_paragraph([" ".join(descent.notes)] if descent.notes else [])
    yield _list_weights(descent)
    yield _list_activations(descent)
    yield _show_quality(context, descent, f"{anchor}-descent-quality")
    yield _show_peaks(descent, context.policy, f"{anchor}-descent-peaks")
    yield _show_noise(descent, f"{anchor}-descent-noise")
    yield from _list_recovered(descent, list_recovered(descent, verdicts))
    for label, compared in descent.label_texts().items():
        yield _list_text(label, compared, verdicts)
    yield _list_tasks(descent, verdicts)
    modules = [(code(name), format_finite(error, format_percent)) for name, error in descent.worst_modules]
    caption = "Modules whose weights differ most from the parent's, by the norm of the difference"
    yield make_table(caption, [*text("Module"), *figures("Relative error")], modules, fold=caption)
    parent = descent.parent
    yield make_terms(
        {
            "Parent": code(parent.source),
            "Revision": code(parent.revision or ""),
            "Digest": code(parent.digest),
            "Measured in": f"{parent.dtype} on {parent.device}",
        }
    )


def divide_perplexity(measured: Measurement | None, parent: Measurement | None) -> float | None:
    """Return a perplexity over the parent's; `None` where either is missing or not finite."""
    if measured is None or parent is None:
        return None
    return measured.loss.ratio_to(parent.loss)


def describe_descent(descent: Descent, policy: Policy) -> list[str]:
    """Write a model's parent, its perplexity ratio on the first text, and how many super weights it kept."""
    compared = descent.texts[0]
    ratio = divide_perplexity(compared.measured(DESCENDANT), compared.measured(PARENT))
    return [descent.parent.id, format_finite(ratio, format_ratio), describe_kept(descent, policy)]


def describe_kept(descent: Descent, policy: Policy) -> str:
    """Say in a few words how many of the parent's super weights are kept."""
    total = len(descent.super_weights)
    kept = sum(_is_kept(weight, policy) for weight in descent.super_weights)
    return f"{format_number(kept)} of {format_number(total)} kept" if total else NOTHING


def _is_kept(weight: RetainedWeight, policy: Policy) -> bool:
    error = weight.relative_error
    return error is not None and abs(error) <= policy.checks[SuperWeightRetainedLimits].maximum_error


def _summarize_weights(descent: Descent, policy: Policy) -> Words:
    weights = descent.super_weights
    if not weights:
        return []
    worst = max(weights, key=lambda one: math.inf if one.relative_error is None else abs(one.relative_error))
    if all(_is_kept(one, policy) for one in weights):
        single = len(weights) == 1
        kept = "its super weight is kept" if single else f"all {count(len(weights), 'super weight')} are kept"
        if not worst.relative_error:
            return [f"; {kept}"]
        return [f"; {kept}, changed by {'' if single else 'at most '}{format_change(worst.value, worst.parent)}"]
    unknown = "what cannot be read" if worst.finite else "what is not finite"
    here = format_optional(worst.value, missing=unknown)
    return ["; ", code(worst.address), f" has gone from {format_number(worst.parent)} to {here}"]


def _summarize_recovery(descent: Descent, verdicts: Sequence[Verdict]) -> Words:
    """Tell what the super weights recover, and what few other parts do where these do not recover 80 %."""
    recovered = [part for part in list_recovered(descent, verdicts) if part.share is not None]
    weights = next((part for part in recovered if isinstance(part.purpose, RestoredWeights)), None)
    tried = [part.tried for part in recovered if part.text == recovered[0].text]
    path = trace_path(tried)
    best = find_smallest(tried) or (path[-1] if path else None)
    chosen = [weights] if weights is not None else []
    if weights is None or not weights.tried.heals:
        chosen += [part for part in recovered if part.purpose == best != RESTORED_WEIGHTS][:1]
    words: list[str | Cell] = []
    for part in chosen:
        share = part.share
        if share is None or share.observed is None or share.observed <= 0:
            continue
        interval = format_percent_interval(share.low, share.high)
        name: str | Cell = code(part.part)
        if part is weights:
            number = len(descent.parent_location.super_weights)
            name = "super weight" if number == 1 else count(number, "super weight")
        said = f"{format_percent(share.observed)}{f' {interval}' if interval else ''}"
        words += ["; putting back its parent's ", name, f" recovers {said} of the loss"]
    return words


def _list_weights(descent: Descent) -> Table | None:
    rows = [
        (
            code(weight.address),
            format_number(weight.parent, 5),
            format_optional(weight.value, format_number, 5, missing=NOT_MEASURED if weight.finite else NOT_FINITE),
            format_change(weight.value, weight.parent),
            format_optional(weight.row_error, format_percent),
            format_optional(weight.column_error, format_percent),
        )
        for weight in descent.super_weights
    ]
    heads = [*text("Scalar"), *figures("In the parent", "Here", "Change", "Rest of its row", "Rest of its column")]
    return make_table("The parent's super weights, there and here", heads, rows)


def _list_activations(descent: Descent) -> Table | None:
    rows = []
    for activation in descent.super_activations:
        pairs = zip(activation.value, activation.parent, strict=True)
        ratios = [here / there for here, there in pairs if here is not None and there]
        here = [value for value in activation.value if value is not None]
        whole = len(here) == len(activation.value)
        attention = [format_optional(sink, format_percent) for sink in (activation.sink_parent, activation.sink)]
        rows.append(
            (
                activation.channel,
                activation.token,
                f"{activation.layers[0]} to {activation.layers[-1]}" if activation.layers else NOTHING,
                format_range(activation.parent),
                format_range(here) if whole else NOT_FINITE,
                format_range(ratios, 3) if whole else NOT_FINITE,
                f"{format_number(sum(activation.loudest))} of {format_number(len(activation.loudest))}",
                " → ".join(attention),
            )
        )
    heads = figures("Channel", "Token", "Layers", "In the parent", "Here", "Ratio", "Loudest", "Attention on it")
    return make_table("The parent's super activations, there and here", heads, rows)


def _show_quality(context: Context, descent: Descent, id: str) -> Chart:  # noqa: A002
    arms = _list_perplexities(descent, context.verdicts)
    caption = ["On a logarithmic axis. The diamond is this model, circles the parent and what has parts of it."]
    points = [point for arm in arms for point in arm.points]
    if any(point.low is not None for point in points):
        caption.append(f"Bars are {100 * context.policy.confidence:g} % intervals of its ratio to the parent.")
    if any(point.value is None for point in points):
        caption.append(plots.OFF_SCALE)
    parent = descent.texts[0].measured(PARENT) if len(descent.texts) == 1 else None
    plot, rows = plots.plot_arms(arms, parent.loss.perplexity if parent else None)
    title = "Perplexity beside the parent, and with parts of the parent put back"
    return make_chart(id, title, caption, plot, rows)


def _list_perplexities(descent: Descent, verdicts: Sequence[Verdict]) -> list[plots.ArmRow]:
    """List perplexities: the parent, the descendant with its interval, then what putting parts back gives."""
    concluded, rows = list_on_texts(verdicts), []
    for label, compared in descent.label_texts().items():
        parent = compared.measured(PARENT)
        for measured in compared.measurements:
            changed, name = measured.arm.purpose == DESCENDANT, label_arm(measured.arm)
            # The end of a long name tells more than its first parts.
            while len(name) > _ROOM and "." in name:
                name = name.partition(".")[2]
            ratio = concluded.get((label, DESCENDANT.name)) if changed else None
            points = [estimate_perplexity(measured, parent, ratio)]
            group = f"On {label}" if len(descent.texts) > 1 else ""
            rows.append(plots.ArmRow(group, name, plots.CHANGED if changed else plots.UNCHANGED, points))
    return rows


def list_peaks(descent: Descent) -> Rows:
    """List the magnitude of the loudest super activation per layer, else the largest of all activations."""
    followed = _find_loudest(descent)
    rows = []
    for series, purpose in ((THE_PARENT, PARENT), (THIS_MODEL, DESCENDANT)):
        if followed is not None:
            values: Sequence[float | None] = followed.parent if purpose == PARENT else followed.value
            layers = followed.layers
        else:
            measured = descent.texts[0].measured(purpose)
            values = measured.peaks if measured else ()
            layers = tuple(range(len(values)))
        peaks = zip(layers, values, strict=True)
        name = "parent" if purpose == PARENT else "this model"
        # A logarithmic axis has no place for zero.
        rows += [plots.place_on_layer(layer, series, abs(value), name) for layer, value in peaks if value]
    return rows


def _find_loudest(descent: Descent) -> RetainedActivation | None:
    activations = [activation for activation in descent.super_activations if activation.layers]
    return max(activations, key=lambda one: max(map(abs, one.parent), default=0.0), default=None)


def _show_peaks(descent: Descent, policy: Policy, id: str) -> Chart | None:  # noqa: A002
    rows = list_peaks(descent)
    if not rows:
        return None
    title, caption = "Largest activation per layer", "Largest magnitude in each layer's output over the text."
    followed = _find_loudest(descent)
    if followed is not None:
        title = f"The super activation of channel {followed.channel}, layer by layer"
        caption = f"Magnitude at token {followed.token} of the locating prompt, after each layer."
        if any(value is None for value in followed.value):
            caption += " Where it is not finite here, there is no point."
    # What is allowed is on the axis too, so that a small difference looks small.
    allowed = policy.checks[SuperActivationRetainedLimits]
    ends = (allowed.minimum_ratio, allowed.maximum_ratio)
    reach = [row["value"] * end for row in rows if row["series"] == THE_PARENT for end in ends if end]
    marked = (weight.layer for weight in descent.super_weights)
    plot, data = plots.plot_magnitudes(rows, marked, keep_seen(_PEAK_SERIES, rows), reach)
    table = plots.tabulate_layers("Magnitude after each layer", rows, _PEAK_SERIES)
    return make_chart(id, title, caption, plot, data, table)


def list_noise(descent: Descent) -> Rows:
    """List noise to signal per layer in decibels, 10 log10(noise / signal); `None` is not finite.

    A layer whose output is the parent's to the last bit has none.
    """
    rows: Rows = []
    for series in _NOISE_SERIES:
        name = f"{series[0].lower()}{series[1:]}"
        for error in descent.layers:
            noise = error.noise if series == SO_FAR else error.own_noise
            if error.signal <= 0 or noise == 0 or (series == ALONE and noise is None):
                continue
            decibels = None if noise is None or noise < 0 else 10 * math.log10(noise / error.signal)
            row = plots.place_on_layer(error.layer, series, decibels, name, _write_decibels)
            rows.append(row | {"finite": decibels is not None})
    return rows


def _show_noise(descent: Descent, id: str) -> Chart | None:  # noqa: A002
    rows = list_noise(descent)
    if not rows:
        return None
    caption = [
        "Noise to signal in the residual stream over scored tokens, in decibels: 0 dB is noise as large as the "
        "signal. The first token is not scored, so a super activation that is lost there shows one layer later."
    ]
    whole = [row for row in rows if row["series"] == SO_FAR and row["finite"]]
    if whole:
        worst = max(whole, key=lambda row: float(row["value"]))
        caption.append(f"The most is {_write_decibels(worst['value'])}, after layer {worst['layer']}.")
    if not all(row["finite"] for row in rows):
        caption.append("A triangle at the upper edge marks noise that is not finite.")
    up = altair.Y("value:Q", axis=theme.axis_plain("Noise to signal, dB"))
    plot = [plots.refer(0.0), *plots.trace_layers("points", rows, up, keep_seen(_NOISE_SERIES, rows))]
    name = "Noise to signal in the residual stream, dB"
    table = plots.tabulate_layers(name, rows, _NOISE_SERIES, lambda value: format_number(round(value, 1)))
    return make_chart(
        id, "How far each layer's output is from the parent's", caption, plot, {"points": rows}, table
    )


def _write_decibels(decibels: float | None) -> str:
    return NOT_FINITE if decibels is None else f"{format_number(round(decibels, 1))} dB"


class Recovered(NamedTuple):
    """What putting parts of the parent back does on one text.

    Attributes:
        text: What the text is called.
        purpose: What is put back.
        ratio: Perplexity over the parent's; `None` if not finite.
        share: Part of the lost nats that it recovers; `None` where no verdict says.
        size: How many modules are replaced whole.
    """

    text: str
    purpose: Purpose
    ratio: float | None
    share: Finding | None
    size: int = 0

    @property
    def part(self) -> str:
        """What is put back, in words."""
        return label_restored(self.purpose)

    @property
    def tried(self) -> Tried:
        """What a search for the fewest parts is told of it."""
        share, low = (None, None) if self.share is None else (self.share.observed, self.share.low)
        score = -math.inf if share is None else share
        return Tried(self.purpose, score, self.size, low is not None and low >= HEALS)


def list_recovered(descent: Descent, verdicts: Sequence[Verdict]) -> list[Recovered]:
    """List what each part that was put back recovers; shares are taken from the verdicts' findings.

    The search on the beginning of the first text comes before all texts.
    """
    shares, recovered = list_on_texts(verdicts), []
    searched = {} if descent.recovery is None else {descent.recovery_label: descent.recovery}
    for label, compared in (searched | descent.label_texts()).items():
        parent = compared.measured(PARENT)
        for measured in compared.measurements:
            purpose = measured.arm.purpose
            if list_parts(purpose) or isinstance(purpose, RestoredLayers):
                share = shares.get((label, purpose.name))
                ratio = divide_perplexity(measured, parent)
                recovered.append(Recovered(label, purpose, ratio, share, len(list_swapped(measured.arm))))
    return recovered


def _list_recovered(descent: Descent, recovered: Sequence[Recovered]) -> Iterator[Table | None]:
    """List single parts, then step by step what recovers most, then what heals with the fewest modules."""
    several = len({part.text for part in recovered}) > 1
    about = ["Text", "Put back"] if several else ["Put back"]
    heads = [*text(*about), *figures("Modules", "Perplexity ratio", "Loss recovered", "Interval")]

    def write(part: Recovered) -> Words:
        share, interval = None, ""
        # Of a loss that is not finite there is no share.
        if part.share is not None and part.share.observed is not None:
            share, interval = part.share.observed, format_percent_interval(part.share.low, part.share.high)
        name = [part.text, part.part] if several else [part.part]
        ratio, size = format_finite(part.ratio, format_ratio), format_number(part.size) if part.size else NOTHING
        return [*name, size, ratio, format_optional(share, format_percent), interval or NOTHING]

    alone = [part for part in recovered if not isinstance(part.purpose, RestoredSet)]
    yield make_table("Parts of the parent put back into this model, one at a time", heads, list(map(write, alone)))
    searched = {part.purpose: part for part in recovered if part.text == descent.recovery_label}
    tried = [part.tried for part in searched.values()]
    path, smallest = trace_path(tried), find_smallest(tried)
    shown = [*path, *([smallest] if smallest is not None and smallest not in path else [])]
    rows = [write(searched[purpose]) for purpose in shown] if len(shown) > 1 else []
    yield make_table("Put back together: what recovers most, step by step", heads, rows)


def _list_text(label: str, compared: ComparedText, verdicts: Sequence[Verdict]) -> Table | None:
    parent, held = compared.measured(PARENT), list_on_texts(verdicts).get((label, DESCENDANT.name))
    rows = []
    for measured in compared.measurements:
        purpose, agreement = measured.arm.purpose, measured.agreement
        own = held if purpose == DESCENDANT else None
        interval = format_interval(own.low, own.high, own.limit) if own else ""
        agrees: list[str] = [NOTHING] * 5
        if purpose != PARENT and any(agreement.tokens):
            tail = agreement.tail
            ends = (tail.median, tail.p99, tail.maximum) if tail else (None, None, None)
            agrees = [
                format_finite(agreement.mean_divergence, format_number, 3),
                *(format_optional(end, format_number, 3) for end in ends),
                format_percent(agreement.top1),
            ]
        rows.append(
            (
                label_arm(measured.arm),
                format_number(sum(measured.loss.tokens)),
                format_finite(measured.loss.perplexity),
                format_finite(divide_perplexity(measured, parent), format_ratio),
                interval or NOTHING,
                *agrees,
                format_finite(measured.stop_words.mean_mass) if measured.stop_words else NOTHING,
                format_percent(measured.choices.accuracy) if measured.choices else NOTHING,
            )
        )
    divergence = ("Mean KL, nats", "Median", "99 %", "Largest")
    heads = figures(
        "Tokens", "Perplexity", "Ratio", "Interval", *divergence, "Same top token", "Stop-word mass", "Accuracy"
    )
    caption = f"On the text {label}, under protocol {compared.protocol.signature}"
    return make_table(caption, [*text("Model"), *heads], rows)


def _list_tasks(descent: Descent, verdicts: Sequence[Verdict]) -> Table | None:
    held = {finding.label: finding for verdict in verdicts for finding in verdict.findings}
    rows: list[Words] = []
    for task in descent.tasks:
        both = (task.parent, task.descendant)
        pairs = list(zip(*both, strict=True))
        finding = held.get(task.label)
        rows.append(
            (
                f"{task.task} ({task.metric}, version {task.version})",
                len(pairs),
                *[format_percent(sum(right) / len(right)) if right else NOTHING for right in both],
                sum(there and not here for there, here in pairs),
                sum(here and not there for there, here in pairs),
                (format_interval(finding.low, finding.high, finding.limit) if finding else "") or NOTHING,
            )
        )
    heads = figures("Items", "Parent", "Here", "Lost", "Gained", "Interval of the loss")
    return make_table("Zero-shot tasks, item by item", [*text("Task"), *heads], rows)
