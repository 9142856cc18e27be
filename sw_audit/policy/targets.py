"""Which matrices are quantized: glob patterns on their names, with proof of what each one matched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from sw_audit.errors import PolicyError
from sw_audit.fact import Fact

_EVERYTHING = ("*",)


class PatternMatch(Fact):
    """What one pattern matched.

    Attributes:
        pattern: As it was asked for; `*` where no targets were named.
        role: `target`: what it matches is quantized; `ignore`: it is left alone.
        matrices: How many decoder matrices it matched, experts that are fused in one parameter counted as one; of
            a pattern to ignore, how many that a target had matched.
    """

    pattern: str
    role: Literal["target", "ignore"]
    matrices: int = Field(ge=1)


def is_targeted(parameter: str, targets: Sequence[str], ignore: Sequence[str]) -> bool:
    """Tell whether a matrix is to be quantized.

    Args:
        parameter: Qualified name, such as `model.layers.2.mlp.down_proj.weight`.
        targets: Patterns on the name without `.weight`, case-sensitive (`fnmatch`); none means every matrix.
        ignore: Patterns of what is taken away again.
    """
    return _matches_any(parameter, targets or _EVERYTHING) and not _matches_any(parameter, ignore)


def match_targets(
    parameters: Iterable[str], targets: Sequence[str], ignore: Sequence[str]
) -> tuple[PatternMatch, ...]:
    """Count what each pattern matches, so that none of them can silently match nothing.

    Given are the qualified names of every decoder matrix, and patterns as in `is_targeted`; targets come first.

    Raises:
        PolicyError: If a pattern matches nothing, or if everything is ignored.
    """
    names = sorted(set(parameters))
    targeted = [name for name in names if _matches_any(name, targets or _EVERYTHING)]
    matches = [_count(pattern, "target", names) for pattern in targets or _EVERYTHING]
    matches += [_count(pattern, "ignore", targeted) for pattern in ignore]
    if ignore and all(_matches_any(name, ignore) for name in targeted):
        raise PolicyError(
            f"ignore {', '.join(map(repr, ignore))}",
            f"nothing is left of {len(targeted)} targeted matrices",
            "ignore less in `[quantization] ignore`",
        )
    return tuple(matches)


def _count(pattern: str, role: Literal["target", "ignore"], names: Sequence[str]) -> PatternMatch:
    matched = sum(_matches_any(name, (pattern,)) for name in names)
    if not matched:
        key = "targets" if role == "target" else "ignore"
        example = f", such as {_shorten(names[0])!r}" if names else ""
        raise PolicyError(
            f"{role} {pattern!r}",
            f"it matches none of {len(names)} {'decoder' if role == 'target' else 'targeted'} matrices{example}",
            f"correct it in `[quantization] {key}`: '*' stands for any characters, such as in '*.down_proj'",
        )
    return PatternMatch(pattern=pattern, role=role, matrices=matched)


def _matches_any(parameter: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(_shorten(parameter), pattern) for pattern in patterns)


def _shorten(parameter: str) -> str:
    return parameter.removesuffix(".weight")
