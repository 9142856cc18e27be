"""The files of a checkpoint, or its one file: each read once, and what can be said against them without torch."""

from __future__ import annotations

import json
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from sw_audit.checkpoint.formats.adapter import ADAPTER_CONFIG
from sw_audit.checkpoint.formats.format import Format, find_format
from sw_audit.checkpoint.headers import DamagedFileError, TensorHeader, read_header
from sw_audit.errors import BrokenWeightsError, CheckpointError, UnfitCheckpointError
from sw_audit.leftovers import temporary_folder
from sw_audit.policy.model_policy import ModelPolicy

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE = "pytorch_model.bin"
_GGUF, _SAFETENSORS = ".gguf", ".safetensors"
_WEIGHT_SUFFIXES = (_GGUF, _SAFETENSORS, ".bin")
_AGAIN = "download or copy the checkpoint again"
_CORRECT = "correct config.json, or download the checkpoint again"
# What config.json holds as an object, or not at all.
_OBJECTS = ("text_config", "llm_config", "quantization_config", "compression_config", "auto_map")
# How long the hub may take to say whether a repository exists, in seconds.
_PATIENCE = 5.0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_TOKENIZER_STARTS = ("tokenizer", "tokenization", "vocab", "spiece", "sentencepiece", "tekken")
_TOKENIZER_ENDS = (".tiktoken", ".model")
_TEMPLATES = "additional_chat_templates"
# What is read as a whole, here and by transformers; other texts, such as a trainer's log, are left alone.
_READ_WHOLE = re.compile(
    r"(?:\w+_)?(?:config|tokens_map|tokens)\.json|(?:chat_template|merges|vocab|token|spiece|sentencepiece|tekken).*"
    r"|.*(?:\.index\.json|\.jinja|\.tiktoken|\.model)"
)
_LARGEST_TEXT = 64 << 20
"""Bytes of the largest such file: twice the largest tokenizer published (33 MB), four times an index of 140,000
tensors."""


class CheckpointFolder:
    """A folder of files that are a checkpoint, each of which is read at most once.

    Where one file of weights is the model, `file` is that file and `path` the folder that it lies in.
    """

    def __init__(self, path: Path, policy: ModelPolicy, file: Path | None = None) -> None:
        self.path, self.policy, self.file = path, policy, file

    @classmethod
    def find(cls, policy: ModelPolicy, *, fetch: bool) -> CheckpointFolder | None:
        """Find the folder or the file of a checkpoint; a local path is never looked up on the network.

        A hub repository is downloaded if `fetch` says so. If not, the answer for one is `None`, or the cached
        snapshot where the hub is switched off (`HF_HUB_OFFLINE`).

        Raises:
            CheckpointError: If there is no such folder or repository, it cannot be reached, or a file is no model.
        """
        path = Path(policy.source).expanduser()
        if path.is_dir():
            return cls(path, policy)._of_regular_files()
        if path.exists():
            return cls._take_file(path, policy)._of_regular_files()
        if not _HUB_ID.fullmatch(policy.source):
            remedy = "correct the path, or give a hub id such as owner/name"
            raise CheckpointError(quote_source(policy), "there is no such folder", remedy)
        if is_offline_mode():
            found = _find_cached(policy, "the hub is switched off by HF_HUB_OFFLINE")
            return cls(found, policy)._of_regular_files()
        return cls(_fetch(policy), policy)._of_regular_files() if fetch else None

    @classmethod
    def require(cls, policy: ModelPolicy) -> CheckpointFolder:
        """Find the folder of a checkpoint, fetched if it is on the hub; CheckpointError if there is none."""
        folder = cls.find(policy, fetch=True)
        if folder is None:  # pragma: no cover - fetching finds a folder or raises
            raise CheckpointError(quote_source(policy), "there is no such folder", "correct the path")
        return folder

    @classmethod
    def _take_file(cls, path: Path, policy: ModelPolicy) -> CheckpointFolder:
        asked = quote_source(policy)
        if path.suffix not in (_GGUF, _SAFETENSORS):
            remedy = "give the folder of a checkpoint, or a .gguf or .safetensors file"
            raise CheckpointError(asked, "this is a file, and neither GGUF nor safetensors", remedy)
        if policy.gguf is not None:
            found = f"this is a file, and `gguf` names {policy.gguf!r}"
            raise CheckpointError(asked, found, "leave `gguf` out, or give the folder")
        shards = set(cls(path.parent, policy).index.values()) if path.suffix == _SAFETENSORS else set()
        if path.name in shards:
            found = f"this is one of {len(shards)} shards of a checkpoint"
            raise CheckpointError(asked, found, f"give their folder, {path.parent}")
        return cls(path.parent, policy, path)

    def _of_regular_files(self) -> CheckpointFolder:
        """Refuse what would never end when it is read: pipes, devices, and texts longer than any sound one.

        Everything is looked at before anything is opened, here or by a library.
        """
        with one_line_damage(self):
            if self.file is not None:
                self._require_regular(self.file)
            if self.file is None or self.file.suffix != _GGUF:
                for path in (*self.path.iterdir(), *(self.path / _TEMPLATES).glob("*")):
                    weights = path.name.endswith(_WEIGHT_SUFFIXES) and self.file is None
                    if weights or path.name.endswith(_TEXT_SUFFIXES):
                        self._require_regular(path)
        return self

    def _require_regular(self, path: Path) -> None:
        if not path.exists():  # a link to nothing
            return
        state = path.stat()
        remedy = "replace it by a copy of the file itself"
        if not stat.S_ISREG(state.st_mode) and not path.is_dir():
            raise CheckpointError(self.asked, f"{path.name} is a pipe, a socket or a device, and no file", remedy)
        if state.st_size > _LARGEST_TEXT and _READ_WHOLE.fullmatch(path.name):
            found = f"{path.name} has {state.st_size} bytes, and at most {_LARGEST_TEXT} are read of such a file"
            raise CheckpointError(self.asked, found, remedy)

    @property
    def asked(self) -> str:
        """The model that was asked for, as errors begin."""
        return quote_source(self.policy)

    @property
    def place(self) -> str:
        """Where its small files are looked for, in words."""
        return "in the folder" if self.file is None else "beside the file"

    @cached_property
    def contents(self) -> tuple[Path, ...]:
        """The files that belong to it, hidden ones and folders left out.

        A GGUF file is all there is of its model; beside a safetensors file other weights belong to others.
        """
        if self.file is not None and self.file.suffix == _GGUF:
            return (self.file,)
        paths = sorted(path for path in self.path.iterdir() if path.is_file() and not path.name.startswith("."))
        if self.file is None:
            return tuple(paths)
        others = (*_WEIGHT_SUFFIXES, ".index.json")
        return tuple(path for path in paths if path == self.file or not path.name.endswith(others))

    @property
    def templates(self) -> tuple[Path, ...]:
        """The chat templates in a folder of their own, which are read where its tokenizer is."""
        alone = self.file is not None and self.file.suffix == _GGUF
        return () if alone else tuple(sorted((self.path / _TEMPLATES).glob("*.jinja")))

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """Give a folder without files of other models: transformers prefers a tokenizer beside a GGUF file."""
        if self.file is None or self.file.suffix != _GGUF:
            yield self.path
            return
        with temporary_folder() as place:
            (place / self.file.name).symlink_to(self.file.resolve())
            yield place

    def holds(self, name: str) -> bool:
        """Tell whether a file of that name belongs to it."""
        return self.path / name in self.contents

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says; CheckpointError if there is none, or it is no JSON object."""
        if not self.holds("config.json"):
            remedy = "give a checkpoint in the layout of transformers"
            if self.file is not None:
                remedy = "put the model's config.json and tokenizer there"
            raise UnfitCheckpointError(self.asked, f"there is no config.json {self.place}", remedy)
        content = self.read_json("config.json")
        for key, value in content.items():
            if key in _OBJECTS and not isinstance(value, dict | None):
                raise UnfitCheckpointError(self.asked, f"config.json says that {key} is {value!r:.40}", _CORRECT)
        names = content.get("architectures")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            found = f"config.json says that architectures is {names!r:.40}, and no list of names"
            raise UnfitCheckpointError(self.asked, found, _CORRECT)
        return content

    @cached_property
    def declared(self) -> dict[str, Any]:
        """What config.json says; nothing where there is none that reads, which opening complains of."""
        try:
            return self.config
        except (CheckpointError, OSError):
            return {}

    @cached_property
    def quantization(self) -> Mapping[str, Any]:
        """What config.json says of quantization; nothing if it says nothing."""
        texts = [self.declared.get(key) for key in ("text_config", "llm_config")]
        for part in (self.declared, *(text for text in texts if isinstance(text, Mapping))):
            for key in ("quantization_config", "compression_config"):
                if isinstance(part.get(key), Mapping) and part[key]:
                    settings: Mapping[str, Any] = part[key]
                    return settings
        return {}

    @cached_property
    def format(self) -> Format:
        """How the weights are stored; CheckpointError if it holds several files of weights and none is named."""
        return find_format(self)

    @property
    def is_plain(self) -> bool:
        """Whether it holds a model whose weights are plain numbers, by its config.json."""
        return self.format.uses_config and not self.quantization

    def find_dtype(self) -> str | None:
        """Find the dtype that config.json declares, else that of most tensors; `None` where neither says."""
        parts = (self.declared, self.declared.get("text_config") or {})
        declared = next((part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), None)
        if declared is not None:
            return str(declared).removeprefix("torch.")
        names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
        tensors = [header.dtype for file in self.headers.values() for header in file.values()]
        found = Counter(names[dtype] for dtype in tensors if dtype in names).most_common(1)
        return found[0][0] if found else None

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The weight files that opening the checkpoint reads.

        Raises:
            CheckpointError: If there are none, one is missing, or there are only pickles that are not allowed.
        """
        return self.format.list_files(self)

    @cached_property
    def headers(self) -> dict[str, dict[str, TensorHeader]]:
        """What each safetensors file holds, by the names of files and tensors; DamagedFileError if it is none."""
        return {path.name: read_header(path) for path in self.weight_files if path.suffix == ".safetensors"}

    @cached_property
    def index(self) -> dict[str, str]:
        """Which shard holds which tensor, by the index of safetensors; nothing where there is no index."""
        return self._read_index(INDEX) if self.file is None else {}

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether there are files of a tokenizer."""
        names = {path.name for path in self.contents} - {"tokenizer_config.json"}
        return any(name.startswith(_TOKENIZER_STARTS) or name.endswith(_TOKENIZER_ENDS) for name in names)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a file of the folder; CheckpointError if it is no JSON object."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnfitCheckpointError(self.asked, f"{name} is not JSON ({error})", _AGAIN) from error
        except RecursionError as error:
            raise UnfitCheckpointError(self.asked, f"{name} is nested too deeply", _AGAIN) from error
        if not isinstance(content, dict):
            raise UnfitCheckpointError(self.asked, f"{name} is not a JSON object", _AGAIN)
        return content

    def list_layout(self) -> tuple[Path, ...]:
        """List the weight files: the one, or as transformers looks for them: one or shards, pickles last."""
        if self.file is not None:
            return (self.file,)
        if stored := self._list_files(WEIGHTS, INDEX):
            return stored
        pickles = sorted(path.name for path in self.path.glob("*.bin"))
        if pickles and not self.policy.allow_pickle:
            raise _refuse_pickle(self.policy, pickles)
        if stored := self._list_files(_PICKLE, f"{_PICKLE}.index.json"):
            return stored
        others = sorted(path.name for suffix in _WEIGHT_SUFFIXES for path in self.path.glob(f"*{suffix}"))
        found = f"no {WEIGHTS}, with or without an index" + (f", only {others[0]}" if others else "")
        if others:
            raise CheckpointError(self.asked, found, "give a checkpoint in the layout of transformers")
        raise UnfitCheckpointError(self.asked, found, _AGAIN)

    def refuse_index(self, found: str, where: str) -> BrokenWeightsError:
        """Make the error for an index that does not agree with its shards."""
        return BrokenWeightsError(self.asked, found, _AGAIN, kind="shard-index", where=where)

    def _list_files(self, name: str, index: str) -> tuple[Path, ...]:
        if (self.path / name).exists():
            return (self.path / name,)
        shards = sorted(set((self.index if index == INDEX else self._read_index(index)).values()))
        there = {path.name for path in self.path.iterdir() if path.is_file()}
        for shard in shards:
            # An index that comes with a checkpoint must not reach out of its folder, nor to another kind of file.
            if Path(shard).name != shard:
                raise self.refuse_index(f"the index names {shard!r}, outside of the folder", shard)
            if not shard.endswith(Path(name).suffix):
                raise self.refuse_index(f"the index names {shard!r}, which is no {Path(name).suffix} file", shard)
            if shard not in there:
                raise self.refuse_index(f"shard {shard} is missing", shard)
        return tuple(self.path / shard for shard in shards)

    def _read_index(self, name: str) -> dict[str, str]:
        if not (self.path / name).exists():
            return {}
        try:
            shards = self.read_json(name).get("weight_map")
        except CheckpointError as error:
            raise self.refuse_index(error.found, name) from error
        named = isinstance(shards, dict) and all(isinstance(shard, str) for shard in shards.values())
        if not shards or not named:
            raise self.refuse_index(f"{name} has no map from tensors to files", name)
        return dict(shards)


def quote_source(policy: ModelPolicy) -> str:
    """Say which model was asked for, as errors begin."""
    return f"model {policy.source!r}"


def choose_files(names: Iterable[str], policy: ModelPolicy) -> list[str]:
    """Choose what to download of a repository: weights in one format, configuration, tokenizer, trusted code."""
    # Subfolders hold the same weights again in formats of other programs, as `consolidated` files do.
    top = [name for name in names if "/" not in name and not name.startswith("consolidated")]
    weights = [name for name in top if name.endswith(".safetensors")]
    pickles = [name for name in top if name.endswith(".bin")]
    if not weights and pickles:
        if not policy.allow_pickle:
            raise _refuse_pickle(policy, pickles)
        weights = pickles
    suffixes = (*_TEXT_SUFFIXES, ".py") if policy.trust_remote_code else _TEXT_SUFFIXES
    return [*weights, *(name for name in top if name.endswith(suffixes))]


def _refuse_pickle(policy: ModelPolicy, names: Iterable[str]) -> CheckpointError:
    found = f"no safetensors, only {min(names)}, a pickle, which can run code when it is read"
    remedy = "convert it to safetensors, or set allow_pickle = true if you trust whoever made it"
    return CheckpointError(quote_source(policy), found, remedy)


def _fetch(policy: ModelPolicy) -> Path:
    """Download what is needed of a repository; without a connection the cached snapshot has to do."""
    asked = quote_source(policy)
    try:
        # One short question first: the download itself would try again and again without a connection.
        info = HfApi().model_info(policy.source, revision=policy.revision, timeout=_PATIENCE)
        chosen = choose_files([file.rfilename for file in info.siblings or ()], policy)
        return Path(snapshot_download(policy.source, revision=policy.revision, allow_patterns=chosen))
    except CheckpointError:
        raise
    except GatedRepoError as error:
        remedy = "ask for access on the hub, then log in with `hf auth login`"
        raise CheckpointError(asked, "access to this repository is restricted", remedy) from error
    except RepositoryNotFoundError as error:
        remedy = "correct the path or the hub id; for a private repository log in with `hf auth login`"
        raise CheckpointError(asked, "neither a folder here nor a model on the hub", remedy) from error
    except RevisionNotFoundError as error:
        found = f"the repository has no revision {policy.revision!r}"
        raise CheckpointError(asked, found, "name a branch, a tag or a commit of it") from error
    except Exception as error:  # httpx, urllib3 and the system each have their own for a lost connection
        return _find_cached(policy, f"the hub cannot be reached ({type(error).__name__})", error)


def _find_cached(policy: ModelPolicy, reason: str, cause: Exception | None = None) -> Path:
    try:
        return Path(snapshot_download(policy.source, revision=policy.revision, local_files_only=True))
    except Exception as error:
        found = f"no such folder here, no snapshot in the cache, and {reason}"
        remedy = "correct the path, or download the model while there is a connection"
        raise CheckpointError(quote_source(policy), found, remedy) from (cause or error)


def inspect_checkpoint(policy: ModelPolicy) -> None:
    """Raise CheckpointError for what files and headers show; a hub repository is inspected when it is opened."""
    folder = CheckpointFolder.find(policy, fetch=False)
    if folder is not None:
        inspect_folder(folder)


def weigh_checkpoint(policy: ModelPolicy) -> int | None:
    """Return the bytes of a checkpoint's weight files and its base's; `None` where they cannot be told yet."""
    try:
        folder = CheckpointFolder.find(policy, fetch=False)
        if folder is None:
            return None
        with one_line_damage(folder):
            own = sum(path.stat().st_size for path in folder.weight_files)
            base = folder.format.find_base(folder)
    except CheckpointError:
        return None
    above = 0 if base is None else weigh_checkpoint(base)
    return None if above is None else own + above


def inspect_folder(folder: CheckpointFolder) -> None:
    """Raise CheckpointError for what the files and headers of a folder show."""
    with one_line_damage(folder):
        if not any(folder.path.iterdir()):
            raise CheckpointError(folder.asked, "the folder is empty", "give the folder of a checkpoint")
        known = folder.format
        if known.uses_config:
            _inspect_configured(folder)
            return
        known.require(folder)
        known.inspect(folder)
        if (base := known.find_base(folder)) is not None:
            _ = folder.headers
            inspect_checkpoint(base)


def _inspect_configured(folder: CheckpointFolder) -> None:
    """Inspect a folder whose config.json describes the model; it has to be a decoder, with its tokenizer."""
    if (folder.path / ADAPTER_CONFIG).exists():
        found = "there is an adapter beside the model, and transformers would put it on without being asked"
        raise CheckpointError(folder.asked, found, "move one of the two into a folder of its own")
    kind = folder.config.get("model_type")
    if not isinstance(kind, str):
        raise UnfitCheckpointError(folder.asked, "config.json names no model_type", _AGAIN)
    folder.format.require(folder)
    if folder.headers and WEIGHTS not in folder.headers:
        for tensor, shard in folder.index.items():
            if tensor not in folder.headers[shard]:
                found = f"the index promises tensor {tensor!r} in {shard}, which does not hold it"
                raise folder.refuse_index(found, tensor)
    folder.format.inspect(folder)
    remedy = "give a decoder-only language model"
    if folder.config.get("is_encoder_decoder"):
        raise UnfitCheckpointError(folder.asked, f"{kind} is an encoder-decoder model", remedy)
    architectures = folder.config.get("architectures") or ()
    if any(str(name).endswith("ForMaskedLM") for name in architectures) and not folder.config.get("is_decoder"):
        raise UnfitCheckpointError(folder.asked, f"{kind} is an encoder-only model", remedy)
    if not folder.has_tokenizer:
        remedy = "put the tokenizer of the model it was made from beside the weights"
        raise UnfitCheckpointError(folder.asked, f"there is no tokenizer {folder.place}", remedy)


@contextmanager
def one_line_damage(folder: CheckpointFolder) -> Iterator[None]:
    """Turn what a damaged or unreadable file raises into a CheckpointError of one line."""
    try:
        yield
    except DamagedFileError as error:
        raise BrokenWeightsError(folder.asked, error.found, error.remedy, where=error.where) from error
    except OSError as error:
        found = f"{Path(error.filename or folder.path).name} cannot be read ({error.strerror})"
        raise CheckpointError(folder.asked, found, "check the file and its permissions") from error
