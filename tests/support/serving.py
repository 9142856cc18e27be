"""A small server that speaks OpenAI's completions API about an open checkpoint, well or badly."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.specimen.shipped import specimen_path

Answer = dict[str, Any]


@dataclass
class Serving:
    """A server that is running, and what it was asked.

    Attributes:
        checkpoint: The model that it serves.
        speaks: What it understands, of `prompt_logprobs`, `echo`, `logit_bias`.
        most: How many log-probabilities of one place it tells at most.
        reply: Called with a handler, a path and the answer; answers by itself if it returns true.
        spoil: Changes the answer to a completion before it is sent.
        questions: What came: method and path, headers, question.
    """

    checkpoint: Checkpoint
    speaks: frozenset[str] = frozenset({"prompt_logprobs"})
    most: int = 1000
    reply: Callable[[BaseHTTPRequestHandler, str, Answer], bool] = lambda *_: False
    spoil: Callable[[Answer], None] = lambda _: None
    models: list[Answer] = field(default_factory=lambda: [{"id": "small", "owned_by": "test"}])
    questions: list[tuple[str, Mapping[str, str], Answer]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, question: Answer) -> tuple[int, Answer]:
        """Answer as a sound server does."""
        if path == "/v1/models":
            return 200, {"data": self.models}
        if path == "/version":
            return 200, {"version": "1.2"}
        if path == "/tokenize" and "prompt" in question:
            tokens = self.checkpoint.tokenizer(question["prompt"], add_special_tokens=False)["input_ids"]
            return 200, {"tokens": tokens}
        if path == "/v1/completions":
            wanted = max(question.get("prompt_logprobs") or 0, question.get("logprobs") or 0)
            if wanted > self.most:
                return 400, {"error": {"message": f"{wanted} are more than {self.most}"}}
            return 200, self._complete(question)
        return 404, {"error": {"message": "not found"}}

    def _complete(self, question: Answer) -> Answer:
        prompts = question["prompt"] if isinstance(question["prompt"][0], list) else [question["prompt"]]
        choices = [{"index": number, **self._choose(prompt, question)} for number, prompt in enumerate(prompts)]
        used = {"prompt_tokens": sum(map(len, prompts))}
        return {"model": question["model"], "choices": choices[::-1], "usage": used}

    @torch.no_grad()
    def _choose(self, prompt: list[int], question: Answer) -> Answer:
        kept = question.get("prompt_logprobs") or question.get("logprobs") or 0
        told, tokens = [], list(prompt)
        bias = {int(token): value for token, value in question.get("logit_bias", {}).items()}
        for _ in range(question["max_tokens"]):
            logits = self.checkpoint.model(torch.tensor([tokens])).logits[0].double()
            if not told:
                told = [None, *(_tell(row, token, kept) for row, token in zip(logits, prompt[1:], strict=False))]
            biased = logits[-1].clone()
            for token, value in bias.items() if "logit_bias" in self.speaks else ():
                biased[token] += value
            written = int(biased.argmax())
            told.append(_tell(logits[-1], written, kept))
            tokens.append(written)
            if written in question.get("stop_token_ids", ()):
                break
        choice: Answer = {
            "finish_reason": "stop" if tokens[-1] in question.get("stop_token_ids", ()) else "length"
        }
        if question.get("prompt_logprobs") and "prompt_logprobs" in self.speaks:
            choice["prompt_logprobs"] = [
                one and {str(token): {"logprob": value} for token, value in {one[0]: one[1], **one[2]}.items()}
                for one in told[: len(prompt)]
            ]
        if question.get("logprobs"):
            begin = 0 if question.get("echo") and "echo" in self.speaks else len(prompt)
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in tokens[begin:]],
                "token_logprobs": [one and one[1] for one in told[begin:]],
                "top_logprobs": [
                    one and {f"token_id:{token}": value for token, value in one[2].items()} for one in told[begin:]
                ],
            }
        return choice


@contextmanager
def serve(serving: Serving) -> Iterator[Serving]:
    """Let it answer at `url` for the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, question: Answer) -> None:
            serving.questions.append((f"{self.command} {self.path}", dict(self.headers), question))
            status, answer = serving.answer(self.path, question)
            if self.path == "/v1/completions" and status == 200:
                serving.spoil(answer)
            if not serving.reply(self, self.path, answer):
                send(self, status, json.dumps(answer).encode())

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            pass  # a client that no longer waits

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        serving.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield serving
        finally:
            server.shutdown()
            thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    """Send an answer with its length."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def _tell(logits: torch.Tensor, token: int, kept: int) -> tuple[int, float, dict[int, float]]:
    log_p = logits.log_softmax(-1)
    top = log_p.topk(min(kept, len(log_p)))
    return token, float(log_p[token]), dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def write_small_llama(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a Llama of two layers with heads of 32, the least that vLLM takes, and the specimen's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=210,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.15,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(specimen_path())
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} . {% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def serve_llama_cpp(file: Path, key: str) -> Iterator[str]:
    """Let llama.cpp's server answer about a GGUF file, whoever has the key, for the block; give its address."""
    program = (
        "import sys, xllamacpp\n"
        "params = xllamacpp.CommonParams()\n"
        "params.model.path, params.api_keys = sys.argv[1], [sys.argv[2]]\n"
        "params.hostnames, params.port, params.n_ctx, params.n_parallel = ['127.0.0.1'], 0, 96, 1\n"
        "params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1\n"
        "server = xllamacpp.Server(params)\n"
        "print('address', server.listening_address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(file), key]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            told = (line.split() for line in process.stdout if line.startswith("address "))
            yield f"{next(told)[1]}/v1"
        finally:
            process.kill()


@contextmanager
def relay(path: Path) -> Iterator[str]:
    """Give an address on this machine at which what listens at a Unix socket answers, for the block."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def pair(link: socket.socket) -> None:
        with link, socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            back = threading.Thread(target=carry, args=(other, link), daemon=True)
            back.start()
            carry(link, other)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=pair, args=(door.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
