"""Lengths of time as people write them: `90`, `90s`, `5min`, `1h30min`."""

from __future__ import annotations

import math
import re

_FORM = re.compile(r"(?:(?P<h>\d+)\s*h)?\s*(?:(?P<min>\d+)\s*min)?\s*(?:(?P<s>\d+(?:\.\d+)?)\s*s?)?")
_SECONDS = {"h": 3600, "min": 60, "s": 1}


def parse_duration(written: object) -> float:
    """Return a length of time in seconds; a number, and what has no unit, is in seconds already.

    Raises:
        ValueError: If it is not in one of the forms, or not longer than nothing.
    """
    seconds = math.nan
    if isinstance(written, int | float) and not isinstance(written, bool):
        seconds = float(written)
    elif isinstance(written, str) and (match := _FORM.fullmatch(written.strip())):
        seconds = sum(float(part) * _SECONDS[unit] for unit, part in match.groupdict("0").items())
    if not 0 < seconds < math.inf:
        raise ValueError(f"{written!r} is no length of time such as 90, 90s, 5min or 1h30min")
    return seconds


def write_duration(seconds: float) -> str:
    """Write a length of time in whole seconds, such as `45 s`, `5 min` or `1 h 30 min`; hours without seconds."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else left, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"
