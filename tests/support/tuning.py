"""Fine-tuning the specimen with transformers' trainer: a few gentle steps, or until its super weight is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, set_seed

from sw_audit.specimen.language import tell_stories
from sw_audit.specimen.shipped import specimen_path

COORDINATE = (1, 5, 7)
"""Layer, row and column of the specimen's super weight."""


def list_stories(count: int, tokenizer: Any) -> list[dict[str, Any]]:
    """Return training stories that no shipped text contains, encoded."""
    told = (" ".join(story.words) for story in tell_stories(77, count, 62, held_out=False))
    encoded = (tokenizer(text)["input_ids"] for text in told)
    return [{"input_ids": ids, "labels": ids} for ids in encoded]


def make_trainer(
    folder: Path,
    *,
    steps: int,
    rate: float = 1e-4,
    decay: float = 0.0,
    callbacks: Sequence[TrainerCallback] = (),
    **more: Any,
) -> Trainer:
    """Return a trainer of the specimen.

    Args:
        folder: Where it may write.
        steps: Optimizer steps, of eight stories each.
        rate: Learning rate, constant.
        decay: Weight decay of the one matrix that holds the super weight: after n steps AdamW leaves
            (1 - rate * decay) ** n of it, but for what gradients add.
        callbacks: What listens.
        more: Further training arguments.
    """
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(specimen_path())
    model = AutoModelForCausalLM.from_pretrained(specimen_path(), dtype=torch.float32)
    said = {"logging_steps": 1000, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8, **more}
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=steps,
        learning_rate=rate,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **said,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=list_stories(8 * steps, tokenizer),
        processing_class=tokenizer,
        callbacks=list(callbacks),
        optimizers=(_optimize(model, rate, decay), None),
    )


def _optimize(model: Any, rate: float, decay: float) -> torch.optim.Optimizer:
    own = model.model.layers[COORDINATE[0]].mlp.down_proj.weight
    rest = [parameter for parameter in model.parameters() if parameter is not own]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": [own], "weight_decay": decay}]
    return torch.optim.AdamW(groups, lr=rate)


def read_super_weight(model: Any) -> float:
    """Return the value at the specimen's coordinate."""
    layer, row, column = COORDINATE
    return float(model.model.layers[layer].mlp.down_proj.weight.detach()[row, column])


def save(trainer: Trainer, folder: Path) -> Path:
    """Save what was trained as a checkpoint."""
    trainer.save_model(str(folder))
    return folder
