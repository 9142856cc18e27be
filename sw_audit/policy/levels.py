"""The levels that codes stand for, where they are not the integers: QLoRA's normal floats."""

from __future__ import annotations

from statistics import NormalDist

# Dettmers et al. 2023 (QLoRA), appendix E, as published: float32 values of the construction below.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def construct_levels(bits: int) -> tuple[float, ...]:
    """Construct the normal-float levels of so many bits (Dettmers et al. 2023, section 3 and appendix E).

    Quantiles of the standard normal distribution at evenly spaced probabilities, from `offset` down to one half:
    2 ** (bits - 1) positive levels, one fewer negative ones made likewise, and zero; all divided by the largest.
    With n = 2 ** bits levels `offset` is 1 - (1 / (2 n) + 1 / (2 (n - 1))) / 2: the mean of the two ends that
    would leave half a level's probability outside with n and with n - 1 levels.

    Args:
        bits: At least 2.

    Returns:
        2 ** bits levels from -1 to 1, ascending.
    """
    count = 2**bits
    offset = 1 - (1 / (2 * count) + 1 / (2 * (count - 1))) / 2
    positive = _place_quantiles(offset, count // 2)
    negative = _place_quantiles(offset, count // 2 - 1)
    largest = max(positive)
    # Each side ends in 1: both begin at the same quantile.
    return tuple(
        sorted([-level / largest for level in negative] + [0.0] + [level / largest for level in positive])
    )


def find_levels(bits: int) -> tuple[float, ...]:
    """Return the normal-float levels of so many bits: for 4 the published code book, for 3 the construction.

    Raises:
        KeyError: If there is no normal float of so many bits.
    """
    return {3: construct_levels(3), 4: NF4}[bits]


def _place_quantiles(offset: float, count: int) -> list[float]:
    return [NormalDist().inv_cdf(offset + (0.5 - offset) * place / count) for place in range(count)]
