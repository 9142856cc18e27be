"""Zero every scalar of the specimen alone, and keep those that matter as test data.

python -m tools.exhaustive FOLDER

The folder keeps what has been measured, parameter by parameter, so that a run can be stopped and gone on with.
About twenty minutes on one thread.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.corpus.looks import FIRST_TOKENS
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import window_corpus
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.specimen import specimen_path

LIST = Path(__file__).parents[1] / "tests" / "critical" / "data" / "specimen-exhaustive.json"
LIMIT = 1.02
"""What is listed: at least so many times the perplexity."""
DOUBTED = 1.015
"""What is measured once more, by a plain pass of a model that was changed for good."""
CHECKED = 50
AT_ONCE = 8
"""More at once leave the cache and take half as long again."""
LIMITS = (1.02, 1.05, 1.1, 1.3, 2.0, 10.0)


class Llama:
    """The specimen over some windows, run on from any layer with many scalars zeroed, each by itself.

    `entering` are the states that enter each decoder layer and leave the last, float32 [windows, tokens, hidden].
    """

    def __init__(self, model: Any, token_ids: Tensor) -> None:
        self.model, self.token_ids = model, token_ids
        inner = model.model
        self.layers = list(inner.layers)
        self.rotation = inner.rotary_emb(inner.embed_tokens(token_ids), torch.arange(token_ids.shape[1])[None])
        self.modules = dict(model.named_modules())
        self.entering = [inner.embed_tokens(token_ids)]
        for layer in self.layers:
            self.entering.append(self._run_layer(layer, self.entering[-1]))

    def take_nats(self, name: str, indices: Tensor) -> Tensor:
        """Return the mean nats per token with each of some scalars of a parameter zeroed, float64 [scalars].

        Their indices are int64 [scalars, dimensions].
        """
        count = len(indices)
        module_name = name.removesuffix(".weight")
        module = self.modules[module_name]
        places = module_name.split(".")
        first = int(places[2]) if "layers" in places else 0 if module is self.model.model.embed_tokens else None
        begun = len(self.layers) if first is None else first
        hidden = self.entering[begun].repeat(count, 1, 1)
        if first is not None and isinstance(module, torch.nn.Embedding):
            changed = hidden.view(count, *self.entering[0].shape)
            for number, (token, channel) in enumerate(indices.tolist()):
                changed[number, self.token_ids == token, channel] = 0.0
        with zeroed(module, indices):
            for layer in self.layers[begun:]:
                hidden = self._run_layer(layer, hidden)
            logits = self.model.lm_head(self.model.model.norm(hidden))
        nats = take_nats(logits, self.token_ids.repeat(count, 1))
        return nats.view(count, -1).double().mean(1)

    def _run_layer(self, layer: Any, hidden: Tensor) -> Tensor:
        output: Tensor = layer(hidden, position_embeddings=self.rotation, attention_mask=None)
        return output


@contextmanager
def zeroed(module: torch.nn.Module, indices: Tensor) -> Iterator[None]:
    """Let each part of a batch go through a module with another one of its scalars zeroed."""
    count = len(indices)
    some = torch.arange(count)

    def change(one: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        parts = output.view(count, -1, output.shape[-1])  # [scalars, windows times tokens, out]
        if one.weight.ndim == 1:
            parts[some, :, indices[:, 0]] = 0.0
        else:
            rows, columns = indices.T
            inputs = given[0].view(count, -1, given[0].shape[-1])
            parts[some, :, rows] -= one.weight[rows, columns][:, None] * inputs[some, :, columns]
        return output

    handles = [] if isinstance(module, torch.nn.Embedding) else [module.register_forward_hook(change)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def take_nats(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return the nats of each token but the first, [windows, tokens - 1]."""
    logits = logits[:, :-1]
    return logits.logsumexp(-1) - logits.gather(-1, token_ids[:, 1:, None])[..., 0]


def run_plainly(model: Any, token_ids: Tensor) -> float:
    """Return the mean nats per token of a plain pass."""
    return float(take_nats(model(input_ids=token_ids, use_cache=False).logits, token_ids).double().mean())


def run_changed(model: Any, token_ids: Tensor, name: str, index: tuple[int, ...]) -> float:
    """Return the mean nats per token of a plain pass of the model with one scalar zeroed for good."""
    parameter = model.get_parameter(name)
    before = parameter[index].clone()
    parameter[index] = 0.0
    try:
        return run_plainly(model, token_ids)
    finally:
        parameter[index] = before


def cut_text(checkpoint: Checkpoint) -> tuple[Tensor, dict[str, Any]]:
    """Return the windows of the first step of an audit, int64 [windows, tokens], and which text they are of."""
    corpus = CorpusPolicy(source="specimen")
    text = read_corpus(corpus)
    longest, bos = checkpoint.maximum_positions, checkpoint.start.bos
    windows = window_corpus(text, checkpoint.tokenizer, corpus, longest, bos, short=True)
    token_ids = windows.token_ids[: FIRST_TOKENS // windows.token_ids.shape[1]]
    return token_ids, {"corpus": text.identity.name, "sha256": text.identity.sha256}


def measure(llama: Llama, name: str, skipped: Tensor, told: Any) -> Tensor:
    """Return the mean nats per token with each scalar of a parameter zeroed, float64; NaN where it was skipped."""
    shape = llama.model.get_parameter(name).shape
    nats = torch.full(shape, torch.nan, dtype=torch.float64)
    wanted = (~skipped.expand(shape)).nonzero()
    for chunk in torch.split(wanted, AT_ONCE):
        nats[tuple(chunk.T)] = llama.take_nats(name, chunk)
        told(len(chunk))
    return nats


@torch.no_grad()
def main(folder: Path) -> None:
    """Measure what is not there yet, check it, and write the list."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    model = checkpoint.model
    token_ids, text = cut_text(checkpoint)
    llama = Llama(model, token_ids)
    embedding = model.model.embed_tokens.weight
    absent = torch.ones(len(embedding), 1, dtype=torch.bool)
    absent[token_ids.flatten()] = False
    names = [name for name, _ in model.named_parameters()]
    total = sum(parameter.numel() for parameter in model.parameters())
    done, begun, progress = 0, time.perf_counter(), partial(print, file=sys.stderr, flush=True)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if done // 4096 != (done - count) // 4096:
            progress(f"{done} of {total}, {time.perf_counter() - begun:.0f} s")

    measured = {}
    for name in names:
        file = folder / f"{name}.pt"
        if not file.exists():
            skipped = absent if model.get_parameter(name) is embedding else torch.zeros(1, dtype=torch.bool)
            torch.save(measure(llama, name, skipped, tell), file)
        measured[name] = torch.load(file)

    base = run_plainly(model, token_ids)
    ratios = {name: (nats - base).exp() for name, nats in measured.items()}
    chance = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(CHECKED):
        name = names[int(torch.randint(len(names), (1,), generator=chance))]
        known = (~ratios[name].isnan()).nonzero()
        index = tuple(known[int(torch.randint(len(known), (1,), generator=chance))].tolist())
        plain = run_changed(model, token_ids, name, index)
        worst = max(worst, abs(plain - float(measured[name][index])))
    progress(f"{CHECKED} drawn scalars: the largest difference from a plain pass is {worst:.2e} nats")

    listed = []
    for name, found in ratios.items():
        for place in (found >= DOUBTED).nonzero().tolist():
            ratio = torch.tensor(run_changed(model, token_ids, name, tuple(place)) - base).exp().item()
            if ratio >= LIMIT:
                value = model.get_parameter(name)[tuple(place)].item()
                listed.append({"parameter": name, "index": place, "value": value, "perplexity_ratio": ratio})
    listed.sort(key=lambda scalar: -scalar["perplexity_ratio"])
    content = {
        "model": "specimen",
        "made": "python -m tools.exhaustive FOLDER",
        "how": f"every scalar zeroed alone, float32; mean of {base:.6f} nats per token without",
        "text": {**text, "windows": token_ids.tolist()},
        "scalars": total,
        "skipped": "embedding entries (not tied) of tokens that the windows do not hold: their ratio is 1",
        "measured": sum(int((~found.isnan()).sum()) for found in ratios.values()),
        "improving": sum(int((found <= 1 / LIMIT).sum()) for found in ratios.values()),
        "counts": {str(limit): sum(one["perplexity_ratio"] >= limit for one in listed) for limit in LIMITS},
        "checked": {"scalars": CHECKED, "largest_difference_nats": worst},
        "listed": listed,
    }
    LIST.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(content | {"listed": 0})[:-2] + "[\n" + ",\n".join(map(json.dumps, listed)) + "\n]}\n"
    LIST.write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
