"""Hypothesis strategies: prompts as token ids, and models with planted super weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from sw_audit.testing.designs import SHAPES, TRAPS, Design, make_design, takes_trap
from sw_audit.testing.families import DENSE
from sw_audit.testing.planted import PlantedModel, build_planted_model

# Hypothesis likes to draw integers that stand in the source of whatever local modules are loaded, so a seed would
# draw other prompts in another program. No source holds integers from here on, so it has none to prefer.
_BEYOND_LITERALS = 2**90


def prompts(vocabulary: Any, *, shortest: int = 1, longest: int = 64) -> SearchStrategy[tuple[int, ...]]:
    """Draw prompts as token ids, without BOS: ids at random, one token over and over, runs of the vocabulary.

    Languages lie in runs of the vocabulary, and one token over and over is known to move massive activations
    (Yona et al. 2025). A failing prompt shrinks to a short one with small ids. A seed gives the same prompts
    whatever else is installed or imported.

    Args:
        vocabulary: A tokenizer, whose special tokens are left out, or the number of tokens.
        shortest: Fewest tokens.
        longest: Most tokens.
    """
    size = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    special = set() if isinstance(vocabulary, int) else set(vocabulary.all_special_ids)
    ordinary = [token_id for token_id in range(size) if token_id not in special]
    place = _integers(0, len(ordinary) - 1)

    @st.composite
    def draw_prompt(draw: DrawFn) -> tuple[int, ...]:
        kind = draw(_integers(0, 2))
        if kind == 0:
            return tuple(ordinary[each] for each in draw(st.lists(place, min_size=shortest, max_size=longest)))
        first, length = draw(place), draw(_integers(shortest, longest))
        if kind == 1:
            return (ordinary[first],) * length
        return tuple(ordinary[(first + step) % len(ordinary)] for step in range(length))

    return draw_prompt()


def _integers(least: int, most: int) -> SearchStrategy[int]:
    shifted = st.integers(_BEYOND_LITERALS + least, _BEYOND_LITERALS + most)
    return shifted.map(lambda value: value - _BEYOND_LITERALS)


def planted_models(
    *,
    families: Sequence[str] = tuple(DENSE),
    shapes: Sequence[str] = (*SHAPES, "none"),
    traps: Sequence[str] = TRAPS,
    layers: tuple[int, int] = (4, 12),
    dtypes: Sequence[str] = ("float32", "bfloat16", "float16"),
) -> SearchStrategy[PlantedModel]:
    """Draw models with planted super weights and with what looks like one, and the truth about each.

    Args:
        families: Which `model_type`s.
        shapes: How super weights may lie to each other; `none` is a model without.
        traps: What may stand beside them; at most three do.
        layers: Fewest and most decoder layers.
        dtypes: Which dtypes.
    """

    @st.composite
    def designs(draw: DrawFn) -> Design:
        shape = draw(st.sampled_from(list(shapes)))
        fitting = [trap for trap in traps if takes_trap(shape, trap)]
        chosen = draw(st.lists(st.sampled_from(fitting), max_size=3, unique=True)) if fitting else []
        return make_design(
            family=draw(st.sampled_from(list(families))),
            layers=draw(st.integers(*layers)),
            dtype=draw(st.sampled_from(list(dtypes))),
            start=draw(st.sampled_from(["bos", "first", "delimiter"])),
            shape=shape,
            traps=tuple(chosen),
            seed=draw(st.integers(0, 2**31 - 1)),
        )

    return designs().map(build_planted_model)
