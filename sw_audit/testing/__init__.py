"""For authors of quantizers and of tests: planted super weights, and laws that hold whatever the prompt.

    from sw_audit.testing import draw_planted_model, find_counterexample, planted_models, prompts

`planted_models` and `prompts` are hypothesis strategies, and `find_counterexample` searches with hypothesis.
"""

from sw_audit.testing.counterexamples import Counterexample, find_counterexample
from sw_audit.testing.critical_models import CriticalModel, draw_critical_model
from sw_audit.testing.designs import Design, Scalar, draw_design, make_design
from sw_audit.testing.families import Numerals, build_random_model, wrap_model
from sw_audit.testing.planted import PlantedModel, build_planted_model, draw_planted_model
from sw_audit.testing.planting import Stem, plant_stems_
from sw_audit.testing.strategies import planted_models, prompts

__all__ = [
    "Counterexample",
    "CriticalModel",
    "Design",
    "Numerals",
    "PlantedModel",
    "Scalar",
    "Stem",
    "build_planted_model",
    "build_random_model",
    "draw_critical_model",
    "draw_design",
    "draw_planted_model",
    "find_counterexample",
    "make_design",
    "plant_stems_",
    "planted_models",
    "prompts",
    "wrap_model",
]
