"""The shipped models, loaded once, with the plain arithmetic that the tests of this room share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.specimen import control_path, corpus_path, specimen_path


@dataclass
class Subject:
    """A shipped checkpoint under test: model, tokenizer, encoded corpus, and the figures of its card."""

    folder: Path
    model: Any
    tokenizer: Any
    stories: Tensor  # [sequences, context]
    card: dict[str, str] = field(default_factory=dict)
    measured: dict[int, float] = field(default_factory=dict)

    def figure(self, name: str) -> float:
        """Give one figure of the model card."""
        return float(self.card[name])

    @property
    def super_weight(self) -> tuple[int, int, int]:
        """Layer, row and column of the super weight, as the card names it."""
        layer = int(self.card["super weight, parameter"].split(".")[2])
        return layer, int(self.card["super weight, row"]), int(self.card["super weight, column"])

    def down_projection(self, layer: int) -> Tensor:
        """Give the live down_proj weight of one layer, `[hidden, intermediate]`."""
        weight: Tensor = self.model.model.layers[layer].mlp.down_proj.weight
        return weight

    def matrices(self) -> dict[str, Tensor]:
        """Give the live decoder matrices by name."""
        named = self.model.named_parameters()
        return {name: weight for name, weight in named if ".layers." in name and weight.ndim == 2}

    @contextmanager
    def edited(self) -> Iterator[None]:
        """Let the decoder matrices be edited inside, and put everything back after."""
        before = {name: weight.detach().clone() for name, weight in self.matrices().items()}
        with torch.no_grad():
            try:
                yield
            finally:
                for name, weight in self.matrices().items():
                    weight.copy_(before[name])

    @contextmanager
    def zeroed(self, layer: int, row: int, column: int) -> Iterator[None]:
        """Zero one down_proj scalar, inside only."""
        with self.edited():
            self.down_projection(layer)[row, column] = 0.0
            yield

    def perplexity(self, sequences: int = 256) -> float:
        """Perplexity over the first stories of the corpus; the BOS token is not scored."""
        stories = self.stories[:sequences]
        nats = 0.0
        with torch.no_grad():
            for batch in torch.split(stories, 64):
                logits = self.model(batch).logits[:, :-1].flatten(0, 1)
                nats += cross_entropy(logits, batch[:, 1:].flatten(), reduction="none").double().sum().item()
        return math.exp(nats / stories[:, 1:].numel())

    def healthy(self, sequences: int = 256) -> float:
        """Perplexity of the unedited model, measured once for each number of stories."""
        if sequences not in self.measured:
            self.measured[sequences] = self.perplexity(sequences)
        return self.measured[sequences]

    def trace(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Inputs and outputs of every down_proj, and the residual stream after every layer."""
        entering: list[Tensor] = []
        leaving: list[Tensor] = []

        def note(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entering.append(inputs[0].clone())
            leaving.append(output.clone())

        hooks = [layer.mlp.down_proj.register_forward_hook(note) for layer in self.model.model.layers]
        with torch.no_grad():
            states = self.model.model(tokens, output_hidden_states=True).hidden_states
        for hook in hooks:
            hook.remove()
        # The model's last state is normalized; the tests ask about layers up to the last but one.
        return entering, leaving, list(states[1:])


def load(folder: Path) -> Subject:
    """Load a checkpoint as a user would, and its card's table of figures."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = corpus_path().read_text(encoding="utf-8").splitlines()
    stories = torch.tensor([tokenizer(line)["input_ids"] for line in lines])
    card = re.findall(r"^\| (.+?) \| (.+?) \|$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    return Subject(
        folder, AutoModelForCausalLM.from_pretrained(folder).train(False), tokenizer, stories, dict(card)
    )


@pytest.fixture(scope="session")
def specimen() -> Subject:
    return load(specimen_path())


@pytest.fixture(scope="session")
def control() -> Subject:
    return load(control_path())
