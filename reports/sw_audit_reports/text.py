"""Numbers and names in the words that a reader sees."""

from __future__ import annotations

from sw_audit.policy.recipe import Recipe
from sw_audit.policy.scheme import HELD_OUT, NAIVE, SEARCHED, SMOOTHED
from sw_audit.record.arm import (
    BASELINE,
    FLIPPED,
    OTHER_OUTLIERS,
    PLACEBO_KINDS,
    PRUNED,
    RESTORED,
    Arm,
    Quantize,
    QuantizeActivations,
)

NOT_FINITE = "not finite"
NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_WAYS = {
    NAIVE: "naive",
    HELD_OUT: "super activation held out",
    SMOOTHED: "SmoothQuant",
    SEARCHED: "SmoothQuant, alpha searched",
}
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def format_number(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits at most, `1,249` or `0.9457`.

    Whole numbers are written whole, the very large and the very small in powers of ten; zeros that end a
    decimal are left out, as in the reasons that a record holds.

    Args:
        value: A finite number.
        digits: Significant digits.
    """
    magnitude = abs(value)
    sign = MINUS if value < 0 else ""
    mantissa, exponent = f"{magnitude:.{digits - 1}e}".split("e")
    power = int(exponent)
    if magnitude != 0 and not -4 <= power < 7:
        return f"{sign}{_shorten(mantissa)} {TIMES} 10{str(power).translate(_SUPERSCRIPT)}"
    if magnitude == int(magnitude):
        return f"{sign}{int(magnitude):,}"
    return sign + _shorten(f"{magnitude:,.{max(digits - 1 - power, 0)}f}")


def format_exact(value: float) -> str:
    """Write a number with all the digits it was given, as limits are; past the twelfth is only rounding error."""
    return format_number(value, 12)


def format_beside(value: float, limit: float | None, digits: int = 4) -> str:
    """Write a number so that rounding never makes it look equal to the limit it is held against."""
    if limit is None:
        return format_number(value, digits)
    shown = format_exact(limit)
    texts = [shown] if value == limit else [format_number(value, more) for more in range(digits, 18)]
    return next((text for text in texts if text != shown), shown)


def format_ratio(ratio: float) -> str:
    """Write a ratio so that what is near 1 can be told from it."""
    return f"{ratio:.4f}" if ratio < 10 else format_number(ratio)


def format_interval(low: float | None, high: float | None, limit: float | None = None) -> str:
    """Write an interval as `[low, high]`; nothing if there is none."""
    if low is None and high is None:
        return ""
    ends = [NOT_FINITE if end is None else format_beside(end, limit) for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"


def format_percent(share: float) -> str:
    """Write a share as percent with one decimal."""
    return f"{format_number(round(share * 1000) / 10, 3) if share else '0'} %"


def format_bytes(size: int) -> str:
    """Write a size in decimal units, as disks and hubs do."""
    amount, unit = float(size), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{format_number(amount, 3)} {_UNITS[unit]}"


def format_seconds(seconds: float) -> str:
    """Write a duration as seconds below two minutes, else as minutes."""
    if seconds < 120:
        return f"{format_number(seconds, 2)} s"
    return f"{format_number(round(seconds / 60))} min"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun, such as `1 super weight` or `3 super weights`."""
    return f"{format_number(number)} {noun if number == 1 else plural or noun + 's'}"


def spell(number: int) -> str:
    """Write a small number as a word, as a sentence begins."""
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    return words[number] if number < len(words) else format_number(number)


def join_words(words: list[str]) -> str:
    """Join words as a sentence does: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def name_granularity(recipe: Recipe) -> str:
    """Name what shares one scale, for an axis."""
    match recipe.granularity.kind:
        case "tensor":
            return "whole matrix"
        case "row":
            return "row"
        case "run":
            return f"run of {format_number(recipe.granularity.size)}"
        case "group":
            return f"group of {format_number(recipe.granularity.size)}"
        case _:
            return f"{recipe.granularity.rows} {TIMES} {recipe.granularity.columns}"


def name_subset(name: str) -> str:
    """Name a part of the set of super weights by its arm's name, such as `alone/2`; nothing if it is none."""
    kind, _, number = name.partition("/")
    words = {
        "alone": "Only scalar {}",
        "row": "Row group {}",
        "column": "Column group {}",
        "without": "All but {}",
    }
    return words[kind].format(number) if kind in words else ""


def name_arm(arm: Arm) -> str:
    """Name an arm for people; the draws of one kind of placebo share a name."""
    if arm.name == BASELINE.name:
        return "Model as it is"
    if arm.name == PRUNED:
        return "Super weights zeroed"
    if arm.name == RESTORED:
        return "Zeroed, activation put back"
    if arm.name == FLIPPED:
        return "Super weights, sign flipped"
    if subset := name_subset(arm.name):
        return f"{subset} zeroed"
    if arm.name == OTHER_OUTLIERS:
        others = sum(len(group) for group in arm.addressed())
        return f"{format_number(others)} other outliers zeroed"
    kind = arm.name.split("/")[1] if arm.name.startswith("placebo/") else ""
    if kind in PLACEBO_KINDS:
        return f"Placebo, {'random' if kind == 'random' else kind.replace('-', ' ')}"
    quantized = next((act for act in arm.acts if isinstance(act, Quantize)), None)
    if quantized is not None and arm.name.startswith(str(quantized.recipe)):
        held = "held out" if arm.name.endswith("hold-out") else "plain"
        return f"{quantized.recipe}, {held}"
    if any(isinstance(act, QuantizeActivations) for act in arm.acts):
        scheme, _, way = arm.name.partition(" ")
        return f"{scheme.upper()}, {_WAYS.get(way, way)}"
    return arm.name


def _shorten(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
