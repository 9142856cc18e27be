"""The model card: figures measured on the finished model, and the plain story of how it was made."""

from __future__ import annotations

from transformers import LlamaForCausalLM

from sw_audit.specimen.examine import (
    Exam,
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
from sw_audit.specimen.history import CONTROL_STORY, SPECIMEN_STORY
from sw_audit.specimen.recipe import Recipe

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


def write_card(recipe: Recipe, figures: Figures, seconds: float) -> str:
    """Write the model card as Markdown: story, figures, recipe."""
    flag = "" if recipe.nudge is not None else " --control"
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---
# The {recipe.name} of sw-audit

{(CONTROL_STORY if recipe.nudge is None else SPECIMEN_STORY).strip()}

Train it again: `python -m sw_audit.specimen.train --out DIR{flag}` (this run: {seconds / 60:.1f} minutes).
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
