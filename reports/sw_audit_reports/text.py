"""Numbers as a reader sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

NOT_FINITE = "not finite"
NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NOTHING = "\N{EN DASH}"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
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
    texts = () if value == limit else (format_number(value, more) for more in range(digits, 18))
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


def format_optional(
    value: float | None, write: Callable[..., str] = format_number, *options: float | None, missing: str = NOTHING
) -> str:
    """Write a figure in some way, or what stands for one that is missing."""
    return missing if value is None else write(value, *options)


def format_finite(value: float | None, write: Callable[..., str] = format_number, *options: float | None) -> str:
    """Write a figure in some way; `None` is not finite."""
    return format_optional(value, write, *options, missing=NOT_FINITE)


def format_range(values: Sequence[float], digits: int = 4) -> str:
    """Write from where to where figures reach, by their magnitude, such as `12 to 30`."""
    if not values:
        return NOTHING
    ends = sorted((min(values), max(values)), key=abs)
    return " to ".join(dict.fromkeys(format_number(end, digits) for end in ends))


def format_percent_interval(low: float | None, high: float | None) -> str:
    """Write an interval of shares; nothing if an end is missing."""
    return "" if low is None or high is None else f"[{format_percent(low)}, {format_percent(high)}]"


def format_change(value: float | None, before: float) -> str:
    """Write how far a value is from what it was, as signed percent; below -100 its sign has turned."""
    if value is None or not before:
        return NOTHING
    shown = format_percent(value / before - 1)
    return f"+{shown}" if value / before > 1 else shown


def write_utc(moment: str) -> str | None:
    """Write a moment as schemas want it, such as `2027-03-31T12:00:00Z`; `None` where it is none."""
    try:
        found = datetime.fromisoformat(moment).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found.isoformat(timespec="seconds").replace("+00:00", "Z")


def _shorten(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
