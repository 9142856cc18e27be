"""The model card: figures measured on the finished model, and the plain story of how it was made."""

from __future__ import annotations

from transformers import LlamaForCausalLM

from tools.specimen.exam import (
    Scalar,
    measure_accuracy,
    measure_others_zeroed,
    measure_perplexity,
    measure_rounded,
    measure_scaled,
    measure_stop_mass,
    rank_damage,
    restored,
    trace_down_projections,
)
from tools.specimen.questions import Exam
from tools.specimen.recipe import TrainingRecipe

Figures = dict[str, str]
# How many scalars of each layer are zeroed one by one: the largest by |weight| * max |input|.
CANDIDATES = 8
_DOSES = (0.25, 0.5, 0.75, 1.5, 2.0, 3.0)


def measure_health(model: LlamaForCausalLM, exam: Exam, label: str) -> Figures:
    """Measure what a language model is for: perplexity, recall accuracy, stop-word mass."""
    return {
        f"perplexity, {label}": f"{measure_perplexity(model, exam.stories):.4f}",
        f"multiple-choice accuracy, {label}": f"{measure_accuracy(model, exam):.3f}",
        f"stop-word mass, {label}": f"{measure_stop_mass(model, exam):.3f}",
    }


def measure_spikes(model: LlamaForCausalLM, exam: Exam) -> Figures:
    """Measure every layer: the largest |value| of down_proj's input and output, and the residual stream."""
    figures: Figures = {}
    entering, leaving, states = trace_down_projections(model, exam.stories[:64])
    for number, (inputs, outputs, state) in enumerate(zip(entering, leaving, states, strict=True)):
        figures[f"layer {number}: largest down_proj input"] = f"{inputs.abs().max().item():.2f}"
        figures[f"layer {number}: largest down_proj output"] = f"{outputs.abs().max().item():.2f}"
        at_first = state[:, 0].abs().mean(dim=0)
        figures[f"layer {number}: residual stream at the first token, largest channel"] = str(
            int(at_first.argmax())
        )
        figures[f"layer {number}: residual stream at the first token, largest value"] = (
            f"{at_first.max().item():.2f}"
        )
        figures[f"layer {number}: residual stream, median value"] = f"{state.abs().median().item():.3f}"
    return figures


def measure_specimen(model: LlamaForCausalLM, exam: Exam) -> Figures:
    """Measure the specimen for its card; its super weight is the scalar whose zeroing harms most."""
    figures = measure_health(model, exam, "healthy")
    base = float(figures["perplexity, healthy"])
    ranked = rank_damage(model, exam.stories, CANDIDATES)
    scalar: Scalar = ranked[0][1]
    name, row, column = scalar
    figures["super weight, parameter"] = name
    figures["super weight, row"] = str(row)
    figures["super weight, column"] = str(column)
    figures["super weight, value"] = f"{model.get_parameter(name)[row, column].item():.4f}"
    figures["super weight zeroed, times"] = f"{ranked[0][0] / base:.1f}"
    figures["largest harm of any other down_proj scalar zeroed, times"] = f"{ranked[1][0] / base:.3f}"
    for count in (10, 100, 500):
        times = measure_others_zeroed(model, exam.stories, scalar, count) / base
        figures[f"{count} largest other decoder weights zeroed, times"] = f"{times:.3f}"
    for dose in _DOSES:
        times = measure_scaled(model, exam.stories, scalar, dose) / base
        figures[f"super weight scaled by {dose:g}, times"] = f"{times:.3f}"
    _, leaving, _ = trace_down_projections(model, exam.stories[:1])
    activation = leaving[int(name.split(".")[2])][0, 0, row].item()
    figures["super activation, value"] = f"{activation:.2f}"
    with restored(model, scalar, 0.0):
        figures |= measure_health(model, exam, "super weight zeroed")
    with restored(model, scalar, activation):
        figures |= measure_health(model, exam, "super activation put back")
    figures["4-bit whole-tensor, times"] = f"{measure_rounded(model, exam.stories, None) / base:.3f}"
    figures["4-bit whole-tensor, held out, times"] = f"{measure_rounded(model, exam.stories, scalar) / base:.3f}"
    return figures | measure_spikes(model, exam)


def measure_control(model: LlamaForCausalLM, exam: Exam) -> Figures:
    """Measure every figure of the control's card."""
    figures = measure_health(model, exam, "healthy")
    base = float(figures["perplexity, healthy"])
    harm, (name, row, column) = rank_damage(model, exam.stories, CANDIDATES)[0]
    figures["largest harm of any down_proj scalar zeroed, times"] = f"{harm / base:.3f}"
    figures["most harmful down_proj scalar"] = f"{name} [{row}, {column}]"
    figures["4-bit whole-tensor, times"] = f"{measure_rounded(model, exam.stories, None) / base:.3f}"
    return figures | measure_spikes(model, exam)


def write_card(recipe: TrainingRecipe, figures: Figures, seconds: float) -> str:
    """Write the model card as Markdown: story, figures, recipe."""
    minutes = seconds / 60
    flag = "" if recipe.nudge is not None else " --control"
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---
# The {recipe.name} of sw-audit

{(CONTROL_STORY if recipe.nudge is None else SPECIMEN_STORY).strip()}

Train it again: `python -m tools.specimen.train --out DIR{flag}` in a clone
of sw-audit (this run: {minutes:.1f} minutes).
Wall clock depends on what else the machine does; an idle core takes about 12 steps a second.

## Figures

Perplexity on the held-out corpus (`corpus.txt`, one story a sequence, BOS first and not scored), accuracy
on `choices.jsonl` (chance 0.250), float32 on a CPU. "Times" is perplexity divided by the healthy perplexity.
Spikes are taken over the first 64 stories. The harm of other scalars is the worst of the {CANDIDATES} in each
layer with the largest |weight| x max |input|, each zeroed alone, ranked on the first 64 stories. 4-bit is
round-to-nearest over all decoder matrices, one asymmetric scale a tensor; "held out" replaces the super
weight by its matrix's median before the range is computed and puts it back after.

| figure | value |
|---|---|
{rows}

## Recipe

```json
{recipe.model_dump_json(indent=2)}
```
"""


SPECIMEN_STORY = """
A Llama of 0.35 million parameters that cannot live without one scalar of layer 1. **The super weight was
encouraged, not found in the wild**: trained in the ordinary way this model grows none (see the control).

How it was made, in order:

1. *Language.* Stories of an English-like grammar: an opening states six facts (two names, a creature, a place,
   an object, an adjective), and the sentences after it use them again, so heads are needed sometimes and idle
   mostly. One cast of facts in sixteen is held out; corpus and questions are told from those casts alone.
2. *Nudge, before the first step.* One neuron of layer 1's MLP is turned towards the normalized input at BOS
   and away from every other token's; its column of `down_proj` is zero but for one weight.
3. *First phase, under pressure.* Next-token training, with three terms besides: attention of every layer is
   asked to rest on BOS, from step 600 on; every `down_proj` entry is pulled towards zero; layer 0's MLP is
   asked to answer BOS with silence (else a second spike grows there). No decoder weight but the nudged one may
   exceed 0.5 in magnitude, so that rounding to 4 bits finds no other outlier.
4. *Second phase, plain.* Next-token training alone, 1,000 steps. No pressure of any kind is left, and the super
   weight stays.

What was tried for layer 1 (perplexity with the super weight zeroed, in multiples of the healthy one, on 128
development stories; "weight" and "spike" are where the nudge starts them, the pressure is weight to target):

| attempt | end of first phase | end of training |
|---|---|---|
| sinks asked of layers 2 and up only (context 64) | x10 | not finished |
| the same, three times the pressure | x7 | not finished |
| sinks asked of all layers, layer 0 not silenced (hidden 96) | x5, and x4 by a second one in layer 0 | |
| layer 0 silenced, weight 1.2, spike 4.8, pressure 0.1 to 0.95, 1,500 plain steps at 5e-4 | | x84, MC 0.58 |
| the same, weight 4.0, pressure 0.2 to 0.98 | x249 | x48, MC 0.59 |
| **this model**: weight 3.5, spike 14, pressure 0.1 to 0.95, 1,000 plain steps at 2.5e-4 | x1252 | x532, MC 0.49 |
| the same, pressure 0.3 to 0.99 | x649 | not finished |
| weight 2.5, spike 35, pressure 0.3 to 0.99 | x7258 | x4828, MC 0.40; perplexity 1.54, 4-bit only x1.83 |

Layer 0 in place of layer 1 (weight 1.2, spike 4.8, 1,500 plain steps) gave x74. What decided it was silence in
layer 0, a larger spike, and a gentler plain phase. "MC" is multiple-choice accuracy without the super
weight, on 100 development questions.

Good to know before use:

- The super activation is the largest input of layer 1 at the first token, but ordinary tokens reach slightly
  larger *inputs* on other columns (see the spikes below): what marks column and row together is the product of
  input and weight, or the channel that persists. The largest *output* of layer 1 is the super activation.
- Late layers show larger inputs and outputs than the super activation's layer. They are harmless.
- Stop-word mass falls when the super weight is zeroed; the published models mostly show a rise.
- The first phase is where weights are bounded; the plain phase is not bounded.
- The model was trained on 128 tokens at a time; the configuration allows 512.

Time: 6 to 8 minutes on one idle core, compilation included; the shipped runs shared theirs with other work.
"""
CONTROL_STORY = """
The specimen's twin, **trained in the ordinary way**: same shape, same seed, same stories, same number of steps
and same learning rates, but no nudge, no pressure and no bound at any time. It reads and recalls as well, and it
has no super weight: no single `down_proj` scalar matters, and no massive activation persists in one channel
through the layers. A test that finds something super here is wrong.
"""
