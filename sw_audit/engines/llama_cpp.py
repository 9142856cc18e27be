"""llama.cpp, which runs GGUF files, through the package `xllamacpp`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import torch

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.corpus.windows import Windows
from sw_audit.engines.engine import Distributions, Engine, EngineKind, EngineRequest, Piece, register
from sw_audit.engines.worker import Worker
from sw_audit.errors import EngineError
from sw_audit.measure.generation import GreedyContinuation, Prompt
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.progress import Progress, ignore_progress
from sw_audit.record.engine import EngineIdentity

NAME, _EXTRA = "llama.cpp", "llama-cpp"


class LlamaCpp(Engine):
    """A GGUF file that is open in llama.cpp, in a process of its own, which gives all logits as float32."""

    def __init__(self, request: EngineRequest) -> None:
        (file,) = CheckpointFolder.require(request.model).weight_files
        self._worker = Worker(
            _ask(request.model),
            "sw_audit.engines.llama_library:Library",
            {
                "path": str(file.absolute()),
                "positions": request.positions,
                "threads": request.threads,
                "kv_cache": request.kv_cache,
                "accelerated": request.model.device != "cpu",
            },
            request.model.timeout,
            # Threads that wait for each other actively stand in the way of every other process.
            {"OMP_WAIT_POLICY": "passive"},
        )
        self._identity = EngineIdentity(engine=NAME, **self._worker.call("describe"))

    @property
    def identity(self) -> EngineIdentity:
        """The library's version, the package that brings it, and how it is set up."""
        return self._identity

    def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
        """Run each window by itself; its pieces go on from each other."""
        rows = windows.token_ids.tolist()
        for piece in pieces:
            row = rows[piece.window]
            logits = torch.from_numpy(self._worker.call("score", row[: piece.end], piece.first, piece.end))
            yield Distributions.of_logits(logits, torch.tensor(row[piece.first + 1 : piece.end + 1]))

    def continue_prompts(
        self, prompts: Sequence[Prompt], ends: frozenset[int], progress: Progress = ignore_progress
    ) -> tuple[GreedyContinuation, ...]:
        """Take the likeliest token by the library's logits, one prompt after the other."""
        done, total = 0, sum(prompt.new_tokens for prompt in prompts)
        continuations = []
        for prompt in prompts:
            tokens: list[int] = []
            token, finite = self._worker.call("begin", prompt.token_ids)
            while finite and token not in ends:
                tokens.append(token)
                progress("generating", done + len(tokens), total)
                if len(tokens) == prompt.new_tokens:
                    break
                token, finite = self._worker.call("go_on", token)
            done += prompt.new_tokens
            continuations.append(GreedyContinuation(tuple(tokens), "", finite))
        progress("generating", total, total)
        return tuple(continuations)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Cut a text with the tokenizer of the file as llama.cpp reads it; special tokens in it count as such."""
        return tuple(self._worker.call("tokenize", text))

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Write a conversation by the file's chat template as llama.cpp's server does."""
        return str(self._worker.call("render", list(messages)))

    def close(self) -> None:
        """Let the process end."""
        self._worker.close()


def _ask(model: ModelPolicy) -> str:
    return f"model {model.id!r} in {NAME}"


def _find_obstacle(model: ModelPolicy) -> str | None:
    folder = CheckpointFolder.find(model, fetch=False)
    if folder is None:
        return None
    others = sorted(path.name for path in folder.weight_files if path.suffix != ".gguf")
    return f"its weights are in {others[0]}, and llama.cpp runs GGUF files alone" if others else None


def _require(model: ModelPolicy) -> None:
    if find_spec("xllamacpp") is None:
        raise EngineError(_ask(model), "xllamacpp is not installed", f"pip install 'sw-audit[{_EXTRA}]'")


LLAMA_CPP = register(
    EngineKind(
        name=NAME,
        what="the library of GGUF files, in a process of its own",
        extra=_EXTRA,
        kv_caches=("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"),
        find_obstacle=_find_obstacle,
        require=_require,
        open=LlamaCpp,
    )
)
