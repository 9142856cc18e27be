"""Draws designs of planted models: family, depth, dtype, super weights and traps, all decided by a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sw_audit.testing.families import DENSE, HIDDEN, INNER, VOCABULARY

SHAPES = ("one", "row", "column", "grid", "layers", "rows-and-layers")
"""How super weights lie to each other: alone, in a row, a column, both (Phi-3), in several layers (Llama-30B)."""

TRAPS = (
    "late",
    "inert",
    "hot-column",
    "companions",
    "propagated",
    "distributed",
    "embedding",
    "attention",
    "bias",
    "outlier-channels",
)
"""What stands beside super weights, or in their place, and is none. A spike in the last two layers (Llama-7B's
layer 30); a larger weight that nothing drives (GPT-2); ordinary weights on a super weight's own column
(OLMo-1B [623, 1710]); many small products beside it on its row (Llama-13B, where it explains 0.59); a spike
further on that the super activation itself drives (OLMo-7B's layer 24); a massive activation that many products
share (BLOOM-7B1), or that an embedding, an attention block or a bias makes; channels that are large everywhere."""

_NEEDS_SUPER_WEIGHT = {"hot-column", "companions", "propagated"}


@dataclass(frozen=True)
class Scalar:
    """A super weight to be planted.

    Attributes:
        layer: Decoder layer.
        row: Channel of the residual stream.
        column: Neuron.
        height: What its product adds to the residual stream, in multiples of the typical magnitude there.
    """

    layer: int
    row: int
    column: int
    height: float


@dataclass(frozen=True)
class Design:
    """Everything that decides a planted model.

    Attributes:
        family: The `model_type`.
        layers: Number of decoder layers.
        dtype: `float32`, `bfloat16` or `float16`.
        start: Where the super activation sits: `bos`, the `first` token without BOS, a `delimiter` further on.
        prompt: Token ids, BOS included.
        position: Position of the super activation in the prompt.
        shape: One of `SHAPES`, or `none`.
        super_weights: The truth.
        traps: Which of `TRAPS` stand beside it.
        seed: Of the weights.
    """

    family: str
    layers: int
    dtype: str
    start: str
    prompt: tuple[int, ...]
    position: int
    shape: str
    super_weights: tuple[Scalar, ...]
    traps: tuple[str, ...]
    seed: int

    @property
    def text(self) -> str:
        """The prompt as `Numerals` reads it, without BOS."""
        return " ".join(str(number) for number in self.prompt[self.start != "first" :])


def draw_design(number: int, seed: int = 0, families: Sequence[str] = tuple(DENSE)) -> Design:
    """Draw the design of one planted model; the same number and seed give the same design.

    Families, shapes and traps are dealt out in turn, so that a suite of consecutive numbers holds all of them;
    everything else is random. One model in six has no super weight. Models are numbered from 0.
    """
    random = Random(f"{seed}/{number}")  # noqa: S311 - a reproducible draw, not a secret
    # Dealt out by other strides than the families, so that every family meets every shape and trap.
    turn = number // len(families) + number
    shape = "none" if turn % 6 == 5 else SHAPES[(number // 6 + turn) % len(SHAPES)]
    return make_design(
        family=families[number % len(families)],
        layers=random.randint(4, 12),
        dtype=random.choices(("float32", "bfloat16", "float16"), (2, 1, 1))[0],
        start=random.choices(("bos", "first", "delimiter"), (5, 3, 2))[0],
        shape=shape,
        traps=_draw_traps(turn, shape, random),
        seed=random.randrange(2**31),
    )


def make_design(
    *, family: str, layers: int, dtype: str, start: str, shape: str, traps: tuple[str, ...], seed: int
) -> Design:
    """Make a design of what is given, with at least 4 layers; see `Design`.

    The seed decides the rest: coordinates, heights, the prompt and the weights.

    Raises:
        ValueError: If a trap needs a super weight and there is none.
    """
    for trap in traps:
        if not takes_trap(shape, trap):
            raise ValueError(f"no trap {trap!r} in a model without super weights")
    random = Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    words = random.sample(range(3, VOCABULARY), random.randint(6, 10))
    prompt = tuple(words) if start == "first" else (1, *words)
    return Design(
        family=family,
        layers=layers,
        dtype=dtype,
        start=start,
        prompt=prompt,
        position=random.randint(1, len(prompt) - 2) if start == "delimiter" else 0,
        shape=shape,
        super_weights=() if shape == "none" else _draw_scalars(shape, family, layers, random),
        traps=traps,
        seed=seed,
    )


def takes_trap(shape: str, trap: str) -> bool:
    """Tell whether a trap makes sense in a model of that shape."""
    return shape != "none" or trap not in _NEEDS_SUPER_WEIGHT


def _draw_scalars(shape: str, family: str, layers: int, random: Random) -> tuple[Scalar, ...]:
    early = range(math.floor(0.4 * layers) + 1)
    rows, columns = random.sample(range(HIDDEN), 6), random.sample(range(INNER), 6)
    # A norm between MLP and residual stream bounds what one product can reach.
    tallest = 150.0 if is_normed(family) else 1500.0
    top = random.choice((-1, 1)) * math.exp(random.uniform(math.log(60), math.log(tallest)))
    count = random.randint(2, 6)
    layer = random.choice(early)

    def height() -> float:
        return random.choice((-1, 1)) * abs(top) * random.uniform(0.3, 1.0)

    match shape:
        case "one":
            return (Scalar(layer, rows[0], columns[0], top),)
        case "row":
            parts = [random.uniform(0.7, 1.3) / count for _ in range(count)]
            return tuple(Scalar(layer, rows[0], columns[i], top * parts[i]) for i in range(count))
        case "column":
            return tuple(Scalar(layer, rows[i], columns[0], height()) for i in range(count))
        case "grid":
            high, wide = random.choice(((2, 2), (3, 2), (2, 3)))
            heights = [height() / wide for _ in range(high)]
            return tuple(
                Scalar(layer, rows[i], columns[j], heights[i] * random.uniform(0.7, 1.3))
                for i in range(high)
                for j in range(wide)
            )
        case "layers":
            chosen = sorted(random.sample(early, min(count, len(early))))
            return tuple(
                Scalar(layer, rows[0], columns[i], top * random.uniform(0.7, 1.3) / len(chosen))
                for i, layer in enumerate(chosen)
            )
        case _:
            chosen = sorted(random.choice(early) for _ in range(count))
            return tuple(Scalar(layer, rows[i], columns[i], height()) for i, layer in enumerate(chosen))


def _draw_traps(turn: int, shape: str, random: Random) -> tuple[str, ...]:
    offered = [trap for trap in TRAPS if takes_trap(shape, trap)]
    count = random.randint(0, 2)
    first = offered[turn // 6 % len(offered)]
    others = random.sample([trap for trap in offered if trap != first], count)
    # Some models are plain: a locator that only ever sees traps could pass by saying little.
    return () if random.random() < 0.12 else (first, *others)


def is_normed(family: str) -> bool:
    """Tell whether a norm stands between a family's MLP and its residual stream."""
    return family in ("gemma2", "gemma3_text", "gemma3", "olmo2", "olmo3", "glm4")
