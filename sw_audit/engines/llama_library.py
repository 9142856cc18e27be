"""llama.cpp as a library, by its C functions, which `xllamacpp` brings; it runs in a process of its own.

The layouts of its parameters change between releases, so none is written down here. The package sets them by name,
the library's own functions make its structures of them, and these are handed on as they are.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from numpy.typing import NDArray

from sw_audit.engines.worker import RefusedError

_BATCH, _LEAST_BATCH = 512, 64
"""Tokens that are computed at once: the library's own default for one step, and fewer of a large vocabulary."""
_LOGITS_AT_ONCE = 1 << 24
"""Logits that the library has room for, 64 MiB."""
_SMALL = 32
"""Tokens that the server is set up for, which computes none."""
_NEXT_LINE = re.compile(r"\n[\d.]+ [A-Z] ")
_LOG_LOOKS, _LOG_PAUSE = 40, 0.05
"""How often the server's log is looked at when it does not start, and seconds between."""
_LOG_SHOWN = 4096
"""Bytes of it that are looked at."""
_TO_MODEL_PARAMETERS = "_Z28common_model_params_to_llamaR13common_params"
_TO_CONTEXT_PARAMETERS = "_Z30common_context_params_to_llamaRK13common_params"
_INSTALL = "install a version of xllamacpp that is known to work: pip install xllamacpp==2026.10.11549"
_CORRECT = "correct the file, or make it again with llama.cpp's own converter"
_SWITCHES = ("LLAMA_ATTN_ROT_DISABLE",)
"""Variables of the environment that change what the library computes."""
_WARNING, _ERROR = 3, 4
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


class _Parameters(ctypes.Structure):
    """A structure of the library, longer than any of its releases; what it does not use lies behind."""

    _fields_ = (("raw", ctypes.c_char * 4096),)


class _Batch(ctypes.Structure):
    """`llama_batch` of llama.h, which has been the same since 2024, with room behind."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
        ("room", ctypes.c_char * 256),
    )


_POINTER, _INT, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    _TO_MODEL_PARAMETERS: (_Parameters, (_POINTER,)),
    _TO_CONTEXT_PARAMETERS: (_Parameters, (_POINTER,)),
    "ggml_set_abort_callback": (_POINTER, (_ABORT,)),
    "llama_backend_init": (None, ()),
    "llama_batch_init": (_Batch, (_INT, _INT, _INT)),
    "llama_decode": (_INT, (_POINTER, _Batch)),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (_POINTER, _INT)),
    "llama_get_memory": (_POINTER, (_POINTER,)),
    "llama_init_from_model": (_POINTER, (_POINTER, _Parameters)),
    "llama_log_set": (None, (_LOG, _POINTER)),
    "llama_memory_clear": (None, (_POINTER, _BOOL)),
    "llama_model_chat_template": (ctypes.c_char_p, (_POINTER, ctypes.c_char_p)),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_model_has_encoder": (_BOOL, (_POINTER,)),
    "llama_model_load_from_file": (_POINTER, (ctypes.c_char_p, _Parameters)),
    "llama_n_batch": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_ctx": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_threads": (_INT, (_POINTER,)),
    "llama_n_ubatch": (ctypes.c_uint32, (_POINTER,)),
    "llama_tokenize": (_INT, (_POINTER, ctypes.c_char_p, _INT, ctypes.POINTER(_INT), _INT, _BOOL, _BOOL)),
    "llama_version": (ctypes.c_char_p, ()),
    "llama_vocab_n_tokens": (_INT, (_POINTER,)),
}


class Library:
    """A GGUF file, open in llama.cpp.

    Args:
        path: The file.
        positions: Tokens of the longest sequence.
        threads: Threads to compute with.
        kv_cache: Form of the key-value cache by ggml's name in small letters, such as `q8_0`; `None` is the
            library's own.
        accelerated: Whether layers are given to an accelerator, where the package is built for one.

    Raises:
        RefusedError: If the library is not as known, or cannot open the file.
    """

    def __init__(self, path: str, positions: int, threads: int, kv_cache: str | None, accelerated: bool) -> None:
        import xllamacpp
        from xllamacpp import xllamacpp as extension

        self._errors: list[str] = []
        self._package = f"xllamacpp {xllamacpp.__version__}"
        self._library = self._declare(ctypes.CDLL(extension.__file__))
        # The library keeps them; they must live as long as it does.
        self._log, self._abort = _LOG(self._heed), _ABORT(_say_last)
        self._library.llama_log_set(self._log, None)
        self._library.ggml_set_abort_callback(self._abort)
        self._library.llama_backend_init()
        self._parameters = parameters = xllamacpp.CommonParams()
        place = self._find_parameters(parameters)
        parameters.n_ctx, parameters.n_parallel = positions, 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        if not accelerated:
            parameters.n_gpu_layers = 0
        if kv_cache is not None:
            form = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv_cache.upper()}")
            parameters.cache_type_k = parameters.cache_type_v = form
            flash = xllamacpp.llama_flash_attn_type
            if kv_cache == "f32":
                # With it, keys and values in float32 are rounded to float16.
                parameters.flash_attn_type = flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
            elif kv_cache not in ("f16", "bf16"):
                # Values can be quantized with it alone.
                parameters.flash_attn_type = flash.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._model = self._require(
            self._library.llama_model_load_from_file(
                path.encode(), getattr(self._library, _TO_MODEL_PARAMETERS)(place)
            ),
            "llama.cpp cannot open the file",
        )
        if self._library.llama_model_has_encoder(self._model):
            raise RefusedError("it is an encoder-decoder model", "give a decoder-only language model")
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        self._tokens = self._library.llama_vocab_n_tokens(self._vocabulary)
        self._at_once = min(_BATCH, max(_LEAST_BATCH, _LOGITS_AT_ONCE // max(1, self._tokens)))
        parameters.n_batch = parameters.n_ubatch = self._at_once
        self._context = self._require(
            self._library.llama_init_from_model(
                self._model, getattr(self._library, _TO_CONTEXT_PARAMETERS)(place)
            ),
            f"llama.cpp cannot set up {positions} tokens with its key-value cache in {kv_cache or 'its own form'}",
        )
        self._check_context(positions, threads)
        self._positions = self._library.llama_n_ctx(self._context)
        # Of a short context the library takes no more at once than that.
        self._at_once = self._library.llama_n_batch(self._context)
        self._batch = self._library.llama_batch_init(self._at_once, 0, 1)
        self._kept: list[int] = []
        self._server: Any = None
        self._path, self._key = path, token_urlsafe()

    def describe(self) -> dict[str, Any]:
        """Tell version, package, size of the vocabulary, and how it is set up."""
        own = self._parameters
        forms = [form.name.removeprefix("GGML_TYPE_").lower() for form in (own.cache_type_k, own.cache_type_v)]
        return {
            "version": self._library.llama_version().decode(),
            "package": self._package,
            "vocabulary": self._tokens,
            "settings": {
                "threads": str(own.cpuparams.n_threads),
                "kv_cache": "/".join(dict.fromkeys(forms)),
                "flash_attention": own.flash_attn_type.name.removeprefix("LLAMA_FLASH_ATTN_TYPE_").lower(),
                "repack": "off" if own.no_extra_bufts else "on",
                **{name: os.environ[name] for name in _SWITCHES if name in os.environ},
            },
        }

    def score(self, token_ids: Sequence[int], first: int, end: int) -> NDArray[np.float32]:
        """Return the logits after some places of a sequence, from `first` to before `end`, [places, vocabulary].

        What the sequence has in common with the one before is not computed again, where it goes on from there.
        """
        if self._kept != list(token_ids[: len(self._kept)]) or len(self._kept) > first:
            self._forget()
        added = token_ids[len(self._kept) : end]
        return self._decode(added, end - first)

    def begin(self, token_ids: Sequence[int]) -> tuple[int, bool]:
        """Begin a sequence; return the likeliest token after it, and whether its logits are finite."""
        self._forget()
        return _choose(self._decode(token_ids, 1)[0])

    def go_on(self, token: int) -> tuple[int, bool]:
        """Add a token to the sequence; return as `begin` does."""
        return _choose(self._decode([token], 1)[0])

    def tokenize(self, text: str) -> list[int]:
        """Cut a text, special tokens in it read as such, none added."""
        data = text.encode()
        room = len(data) + 16
        while True:
            found = (ctypes.c_int32 * room)()
            count = self._library.llama_tokenize(self._vocabulary, data, len(data), found, room, False, True)
            if count >= 0:
                return list(found[:count])
            room = -count

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write a conversation by the file's chat template, the answer still to come.

        The package has this in its server alone, which is asked on this machine, without computing anything.

        Raises:
            NotImplementedError: If the file has no chat template; the server would take one of its own.
        """
        if self._library.llama_model_chat_template(self._model, None) is None:
            raise NotImplementedError("the file has no chat template")
        try:
            if self._server is None:
                self._server = self._open_server()
            question = Request(  # noqa: S310 - an address of this machine, of a server that was started here
                f"{self._server.listening_address}/apply-template",
                json.dumps({"messages": list(messages)}).encode(),
                {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
            )
            with build_opener(ProxyHandler({})).open(question) as answer:
                return str(json.load(answer)["prompt"])
        except HTTPError as error:
            raise RefusedError(
                f"llama.cpp cannot use the chat template: {_read_message(error)}", _CORRECT
            ) from error

    def _open_server(self) -> Any:
        import xllamacpp

        own = xllamacpp.CommonParams()
        own.model.path = self._path
        own.n_ctx = own.n_batch = own.n_ubatch = _SMALL
        own.n_parallel, own.n_gpu_layers = 1, 0
        own.cpuparams.n_threads = 1
        # Weights stay as they lie in the file, which is in memory once for both.
        own.no_extra_bufts, own.warmup, own.fit_params, own.use_jinja = True, False, False, True
        own.endpoint_slots, own.ui, own.api_keys = False, False, [self._key]
        printed = os.fstat(sys.stderr.fileno()).st_size
        try:
            return xllamacpp.Server(own)
        except RuntimeError as error:
            # It says why in its log alone, which a thread of its own writes: error lines have an E after the time.
            for _ in range(_LOG_LOOKS):
                said = (
                    os.pread(sys.stderr.fileno(), _LOG_SHOWN, printed).decode(errors="replace").partition(" E ")[2]
                )
                if _NEXT_LINE.search(said):
                    break
                time.sleep(_LOG_PAUSE)
            why = _NEXT_LINE.split(said)[0] or str(error)
            found = f"llama.cpp's server does not start with the chat template ({' '.join(why.split())[:300]})"
            raise RefusedError(found, _CORRECT) from error
        finally:
            # It writes its log elsewhere from then on.
            self._library.llama_log_set(self._log, None)

    def _declare(self, library: Any) -> Any:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name, None)
            if function is None:
                raise RefusedError(f"{self._package} has no function {name}", _INSTALL)
            function.restype, function.argtypes = result, arguments
        return library

    def _find_parameters(self, parameters: Any) -> int:
        """Find the address of the library's parameters in the package's object, which begins with them."""
        place = id(parameters) + object.__basicsize__
        before = parameters.n_predict, parameters.n_ctx
        parameters.n_predict, parameters.n_ctx = 0x5A17_0B0E, 0x3C29_0D0F
        held = tuple((ctypes.c_int32 * 2).from_address(place))
        asked = parameters.n_predict, parameters.n_ctx
        parameters.n_predict, parameters.n_ctx = before
        if held != asked or type(parameters).__basicsize__ > ctypes.sizeof(_Parameters) * 4:
            raise RefusedError(f"{self._package} keeps its parameters in a way that is not known here", _INSTALL)
        return place

    def _check_context(self, positions: int, threads: int) -> None:
        """Check that the library has understood what it was handed."""
        library, context = self._library, self._context
        found = library.llama_n_batch(context), library.llama_n_ubatch(context), library.llama_n_threads(context)
        if library.llama_n_ctx(context) < positions or found[2] != threads or max(found[:2]) > self._at_once:
            raise RefusedError(f"{self._package} was not set up as it was told to be", _INSTALL)

    def _require(self, pointer: int | None, what: str) -> int:
        if pointer is None:
            raise RefusedError(f"{what}{self._say_why()}", _CORRECT)
        return pointer

    def _say_why(self) -> str:
        # The first error is the cause; those after it say what could not be done because of it.
        return f" ({self._errors[0]})" if self._errors else ""

    def _heed(self, level: int, text: bytes, _: object) -> None:
        if level in (_WARNING, _ERROR):
            line = text.decode(errors="replace").strip()
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - kept by the other end
            if level == _ERROR:
                self._errors.append(line)

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        self._kept = []

    def _decode(self, added: Sequence[int], wanted: int) -> NDArray[np.float32]:
        """Add tokens to the sequence; return the logits after the last of them, [wanted, vocabulary]."""
        if (length := len(self._kept) + len(added)) > self._positions:
            found = f"a sequence of {length} tokens, and it was set up for {self._positions}"
            raise RefusedError(found, "give shorter windows and prompts")
        for token in added:
            if not 0 <= token < self._tokens:
                found = f"there is no token {token} among its {self._tokens}"
                raise RefusedError(found, "give the model with its own tokenizer")
        logits = np.empty((wanted, self._tokens), np.float32)
        silent = len(added) - wanted
        for start in range(0, len(added), self._at_once):
            part = added[start : start + self._at_once]
            batch, count = self._batch, len(part)
            batch.n_tokens = count
            for number, token in enumerate(part):
                batch.token[number], batch.pos[number] = token, len(self._kept) + number
                batch.n_seq_id[number], batch.seq_id[number][0] = 1, 0
                batch.logits[number] = start + number >= silent
            self._errors.clear()
            if code := self._library.llama_decode(self._context, batch):
                self._forget()
                raise RefusedError(f"llama.cpp cannot compute it, code {code}{self._say_why()}", _CORRECT)
            self._kept += part
            for number in range(max(0, silent - start), count):
                row = self._library.llama_get_logits_ith(self._context, number)
                if not row:
                    raise RefusedError(f"llama.cpp gives no logits after token {start + number}", _INSTALL)
                logits[start + number - silent] = np.ctypeslib.as_array(row, (self._tokens,))
        return logits


def _choose(logits: NDArray[np.float32]) -> tuple[int, bool]:
    # A token that a model rules out has a logit of minus infinity, which is no fault.
    sound = not (np.isnan(logits) | np.isposinf(logits)).any() and not np.isneginf(logits).all()
    return (int(logits.argmax()) if sound else -1), sound


def _say_last(message: bytes) -> None:
    print(message.decode(errors="replace"), file=sys.stderr, flush=True)  # noqa: T201 - kept by the other end


def _read_message(error: HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (KeyError, TypeError, ValueError):
        return f"HTTP status {error.code}"
