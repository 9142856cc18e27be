"""What the charts of a descendant show: series taken from its evidence, with intervals from the verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sw_audit.record.descent import (
    DESCENDANT,
    PARENT,
    RESTORED_WEIGHTS,
    ComparedText,
    Descent,
    name_restored_module,
)
from sw_audit.record.measurement import Measurement
from sw_audit.record.verdict import Finding, Verdict
from sw_audit_reports.series import INTACT, TOUCHED, ArmRow, LayerPoint, Point

_MODULE = name_restored_module("")
_PUT_BACK = " put back"
_ROOM = 26
"""Characters of a label that the chart of perplexities has room for, beside what is said of it."""


@dataclass(frozen=True)
class NoisePoint:
    """Noise to signal after one layer.

    Attributes:
        layer: Decoder layer.
        series: `touched`: of all layers so far; `intact`: of this layer alone, on the parent's input.
        decibels: 10 log10(noise / signal); `None` where it is not finite.
    """

    layer: int
    series: str
    decibels: float | None


@dataclass(frozen=True)
class Recovered:
    """What putting a part of the parent back does on one text.

    Attributes:
        text: What the text is called.
        arm: Name of the arm.
        part: What is put back.
        ratio: Perplexity over the parent's; `None` if not finite.
        share: Part of the lost nats that it recovers, with its interval; `None` where no verdict says.
    """

    text: str
    arm: str
    part: str
    ratio: float | None
    share: Point | None


def label_texts(descent: Descent) -> Iterator[tuple[str, ComparedText]]:
    """Yield each text with the name that verdicts know it by; a second one of a name is counted."""
    names: Counter[str] = Counter()
    for text in descent.texts:
        name = text.protocol.corpus.name
        names[name] += 1
        yield name if names[name] == 1 else f"{name} ({names[name]})", text


def name_part(arm: str) -> str:
    """Name an arm of a descendant for people."""
    if arm.startswith(_MODULE):
        return arm.removeprefix(_MODULE)
    plain = {PARENT: "Parent", DESCENDANT: "This model", RESTORED_WEIGHTS: "Super weights"}
    return plain.get(arm, arm)


def find_ratio(verdicts: Sequence[Verdict], label: str) -> Finding | None:
    """Find what was concluded of the perplexity ratio on one text."""
    findings = (one for verdict in verdicts if verdict.check == "perplexity-ratio" for one in verdict.findings)
    return next((one for one in findings if one.label == label), None)


def divide_perplexity(measured: Measurement | None, parent: Measurement | None) -> float | None:
    """Return a perplexity over the parent's; `None` where either is missing or not finite."""
    if measured is None or parent is None:
        return None
    here, there = measured.loss.perplexity, parent.loss.perplexity
    return None if here is None or not there else here / there


def list_perplexities(descent: Descent, verdicts: Sequence[Verdict]) -> tuple[ArmRow, ...]:
    """List perplexities: the parent, the descendant with its interval, then what putting parts back gives."""
    several = len(descent.texts) > 1
    rows: list[ArmRow] = []
    for label, text in label_texts(descent):
        parent = text.measured(PARENT)
        base = parent.loss.perplexity if parent else None
        held = find_ratio(verdicts, label)
        for measured in text.measurements:
            name, perplexity = measured.arm.name, measured.loss.perplexity
            point = Point(perplexity)
            if name == DESCENDANT and held and base and perplexity is not None:
                low, high = (None if end is None else end * base for end in (held.low, held.high))
                point = Point(perplexity, low, high)
            ours = name not in (PARENT, DESCENDANT)
            rows.append(
                ArmRow(
                    f"On {label}" if several else "",
                    f"{_shorten(name_part(name))}{_PUT_BACK if ours else ''}",
                    TOUCHED if name == DESCENDANT else INTACT,
                    (point,),
                )
            )
    return tuple(rows)


def list_recovered(descent: Descent, verdicts: Sequence[Verdict]) -> tuple[Recovered, ...]:
    """List what each part that was put back recovers; shares are taken from the verdicts' findings."""
    shares = {
        one.label: Point(one.observed, one.low, one.high)
        for verdict in verdicts
        if verdict.check == "perplexity-ratio"
        for one in verdict.findings
        if one.label.endswith(_PUT_BACK)
    }
    found = []
    for label, text in label_texts(descent):
        parent = text.measured(PARENT)
        for measured in text.measurements:
            name = measured.arm.name
            if name in (PARENT, DESCENDANT):
                continue
            # The verdict says how many super weights there are; a module it calls by its whole name.
            subject = name.removeprefix(_MODULE) if name.startswith(_MODULE) else "super weight"
            share = next(
                (point for told, point in shares.items() if told.startswith(f"{label}, ") and subject in told),
                None,
            )
            found.append(Recovered(label, name, name_part(name), divide_perplexity(measured, parent), share))
    return tuple(found)


def list_peaks(descent: Descent) -> tuple[LayerPoint, ...]:
    """List the magnitude of the loudest super activation per layer, else the largest of all activations."""
    followed = max(descent.super_activations, key=lambda one: max(map(abs, one.parent), default=0.0), default=None)
    if followed is not None and followed.layers:
        points = [
            LayerPoint(layer, series, abs(value))
            for series, values in ((INTACT, followed.parent), (TOUCHED, followed.value))
            for layer, value in zip(followed.layers, values, strict=True)
            if value is not None
        ]
    else:
        first = descent.texts[0]
        points = [
            LayerPoint(layer, series, peak)
            for name, series in ((PARENT, INTACT), (DESCENDANT, TOUCHED))
            for measured in [first.measured(name)]
            if measured is not None
            for layer, peak in enumerate(measured.peaks)
            if peak is not None
        ]
    # A logarithmic axis has no place for zero.
    return tuple(point for point in points if point.value > 0)


def list_noise(descent: Descent) -> tuple[NoisePoint, ...]:
    """List noise to signal per layer; a layer whose output is the parent's to the last bit has none."""
    points = []
    for one in descent.layers:
        if one.signal <= 0:
            continue
        if one.noise is None or one.noise > 0:
            points.append(NoisePoint(one.layer, TOUCHED, measure_decibels(one.noise, one.signal)))
        if one.own_noise:
            points.append(NoisePoint(one.layer, INTACT, measure_decibels(one.own_noise, one.signal)))
    return tuple(points)


def measure_decibels(noise: float | None, signal: float) -> float | None:
    """Return 10 log10(noise / signal); `None` where it is not finite."""
    return None if noise is None or noise <= 0 else 10 * math.log10(noise / signal)


def _shorten(name: str) -> str:
    """Leave out the first parts of a long name: its end tells more."""
    while len(name) > _ROOM and "." in name:
        name = name.partition(".")[2]
    return name
