"""What a policy says of a model: where it is, how it is opened, what it was made from, and what is waived."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sw_audit.duration import parse_duration
from sw_audit.fact import Fact
from sw_audit.printable import printable

Expectation = Literal["some", "none", "any"]
Level = Literal["gate", "law"]
"""A gate is what one stops a release for; a law is a claim of the science about a model."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
BosRule = Literal["auto", "always", "never"]
Seconds = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=float | str)]
TRANSFORMERS = "transformers"
"""The engine that runs in this process, in which weights can be changed."""
_LONGEST_ID = 200
"""Characters, about twice what a hub allows in a name."""


class ModelPolicy(Fact):
    """One model to audit.

    Attributes:
        source: Path of a checkpoint folder, of a GGUF file, or of a safetensors file with its configuration and
            tokenizer beside it; or a hub id.
        id: Short name; the last part of the source by default, without `.gguf` and `.safetensors`, and with what
            cannot be shown in it escaped.
        revision: Hub revision: a branch, a tag, or a commit (40 hex digits, which fixes the bytes).
        dtype: Dtype to load in; `auto` is what the checkpoint says, with two exceptions. Bfloat16 is opened in
            float32 on a processor that does not multiply in it, where it would be slower. A GGUF file is opened in
            bfloat16 where all its weights are, else in float32, which holds what its codes stand for.
        device: Where to run, such as `cpu` or `cuda:0`.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        allow_pickle: Whether `.bin` files may be read where there is no safetensors file.
        expect: Overrides the policy's expectation for this model.
        bos: Whether its BOS token stands before every text and prompt; overrides the text's `bos`. A descendant is
            measured as its parent is.
        parent: What it was made from: the id of another model of the policy, a path, or a hub id. With a parent it
            is a descendant, and other checks apply.
        base: Base model of an adapter, by path or hub id; by default what its configuration says, which is not
            fetched.
        adapter: Path or hub id of an adapter that was merged into the parent to make it; the merge is done again
            from files, and held against it.
        gguf: Name of a GGUF file in the folder, where there are several.
        manifest: Path of a file with one `sha256  name` a line (as `sha256sum` writes) that its files are held
            against.
        index: Id of its entry in the index of published coordinates, or `none` if no entry applies; by
            default it is found by the source.
        engine: What runs it where its quality is measured: `transformers`, or a program that serves models, such
            as `llama.cpp`. Its weights are looked at all the same, and what a program gives is held against what
            transformers makes of the same files.
        url: Where a server answers that runs it, such as `http://127.0.0.1:8000/v1`; for `engine = "openai"`.
        served: What the server calls it; by default the one model that the server has.
        key_variable: Environment variable that holds the server's key; by default no key is sent.
        timeout: Seconds that an engine may take to open, and for each answer.
        top_tokens: How many of the likeliest tokens are asked of an engine that does not give all; by default as
            many as it is known to give in reasonable time.
        kv_cache: Forms of the key-value cache that the engine is tried with besides its own, such as `q8_0`.
    """

    source: str = Field(min_length=1)
    id: str = ""
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    expect: Expectation | None = None
    bos: BosRule | None = None
    parent: str | None = Field(default=None, min_length=1)
    base: str | None = Field(default=None, min_length=1)
    adapter: str | None = Field(default=None, min_length=1)
    gguf: str | None = Field(default=None, min_length=1)
    manifest: str | None = Field(default=None, min_length=1)
    index: str | None = Field(default=None, min_length=1)
    engine: str = Field(default=TRANSFORMERS, min_length=1)
    url: str | None = Field(default=None, min_length=1)
    served: str | None = Field(default=None, min_length=1)
    key_variable: str | None = Field(default=None, min_length=1)
    timeout: Seconds = 300.0
    top_tokens: int | None = Field(default=None, ge=1)
    kv_cache: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @property
    def in_engine(self) -> bool:
        """Whether a program that serves models runs it."""
        return self.engine != TRANSFORMERS

    @field_validator("kv_cache", mode="before")
    @classmethod
    def _freeze(cls, value: object) -> object:
        # What `_name` has seen is no JSON any more, of which a list would do.
        return tuple(value) if isinstance(value, list) else value

    @field_validator("id")
    @classmethod
    def _plain(cls, value: str) -> str:
        if any(mark in value for mark in "[]:/\\") or value.strip() != value:
            raise ValueError("an id has no brackets, colons, slashes or outer spaces")
        if not value.isprintable() and value != printable(value):
            raise ValueError("an id has no characters that cannot be seen")
        if len(value) > _LONGEST_ID:
            raise ValueError(f"an id has {_LONGEST_ID} characters at most, and this one {len(value):,}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("id") and isinstance(data.get("source"), str):
            last = data["source"].replace("\\", "/").rstrip("/").rpartition("/")[2]
            last = last.removesuffix(".gguf").removesuffix(".safetensors")
            name = printable(last, _LONGEST_ID).translate(str.maketrans("[]:\\", "----")).strip()
            return {**data, "id": name if name not in ("", ".", "..") else "model"}
        return data


Words = Annotated[str, Field(min_length=1)]


class Waiver(Fact):
    """A verdict that may be other than PASS until a day, and who says so.

    Attributes:
        check: Id of the check.
        model: Id of the model, or `*` for all.
        until: The last day on which it holds.
        owner: Who answers for it.
        reason: Why.
    """

    check: Words
    model: Words
    until: date
    owner: Words
    reason: Words

    def covers(self, check: str, model: str) -> bool:
        """Tell whether it is about a check on a model, expired or not."""
        return self.check == check and self.model in ("*", model)

    def __str__(self) -> str:
        """Write it as what it is told by, such as `until 2027-03-31 by Ada: the old kernel goes away then`."""
        return f"until {self.until.isoformat()} by {self.owner}: {self.reason}"
