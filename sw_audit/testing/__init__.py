"""For authors of quantizers and of tests: planted super weights, and laws that hold whatever the prompt.

    from sw_audit.testing import draw_planted_model, find_counterexample, planted_models, prompts

`planted_models` and `prompts` are hypothesis strategies, and `find_counterexample` searches with hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_MODULES = {
    "Counterexample": "counterexamples",
    "Design": "designs",
    "Numerals": "families",
    "PlantedModel": "planted",
    "Scalar": "designs",
    "Stem": "planting",
    "build_planted_model": "planted",
    "build_random_model": "families",
    "draw_design": "designs",
    "draw_planted_model": "planted",
    "find_counterexample": "counterexamples",
    "make_design": "designs",
    "plant_stems_": "planting",
    "planted_models": "strategies",
    "prompts": "strategies",
    "wrap_model": "families",
}

__all__ = [
    "Counterexample",
    "Design",
    "Numerals",
    "PlantedModel",
    "Scalar",
    "Stem",
    "build_planted_model",
    "build_random_model",
    "draw_design",
    "draw_planted_model",
    "find_counterexample",
    "make_design",
    "plant_stems_",
    "planted_models",
    "prompts",
    "wrap_model",
]

if TYPE_CHECKING:
    from sw_audit.testing.counterexamples import Counterexample, find_counterexample
    from sw_audit.testing.designs import Design, Scalar, draw_design, make_design
    from sw_audit.testing.families import Numerals, build_random_model, wrap_model
    from sw_audit.testing.planted import PlantedModel, build_planted_model, draw_planted_model
    from sw_audit.testing.planting import Stem, plant_stems_
    from sw_audit.testing.strategies import planted_models, prompts


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'sw_audit.testing' has no public name {name!r}")
    return getattr(import_module(f"sw_audit.testing.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
