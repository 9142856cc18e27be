"""What was audited, on what, with what: names and digests."""

from __future__ import annotations

from sw_audit.fact import Fact
from sw_audit.record.address import Index


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
        digest: sha256 over the manifest of the weight files (`path`, `size`, `sha256` a line each); empty where
            they were not digested.
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
