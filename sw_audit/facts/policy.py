"""What an audit is asked to do: models, text, recipes, and the limits of each check."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from sw_audit.facts.fact import Fact
from sw_audit.facts.limits import CheckLimits
from sw_audit.facts.recipe import Recipe, parse_recipe
from sw_audit.facts.scheme import ActivationPolicy

Expectation = Literal["some", "none", "any"]
Pattern = Annotated[str, Field(min_length=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelPolicy(Fact):
    """One model to audit.

    Attributes:
        source: Path of a checkpoint folder, or a hub id.
        id: Short name; the last part of the source by default.
        revision: Hub revision: a branch, a tag, or a commit (40 hex digits, which fixes the bytes).
        dtype: Dtype to load in; `auto` is what the checkpoint says.
        device: Where to run, such as `cpu` or `cuda:0`.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        allow_pickle: Whether `.bin` files may be read where there is no safetensors file.
        expect: Overrides the policy's expectation for this model.
        index: Id of its entry in the index of published coordinates, or `none` if no entry applies; by
            default it is found by the source.
    """

    source: str = Field(min_length=1)
    id: str = ""
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    expect: Expectation | None = None
    index: str | None = Field(default=None, min_length=1)

    @field_validator("id")
    @classmethod
    def _plain(cls, value: str) -> str:
        if any(mark in value for mark in "[]:/\\") or value.strip() != value:
            raise ValueError("an id has no brackets, colons, slashes or outer spaces")
        return value

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("id") and isinstance(data.get("source"), str):
            last = data["source"].replace("\\", "/").rstrip("/").rpartition("/")[2]
            name = last.translate(str.maketrans("[]:", "---")).strip()
            return {**data, "id": name if name not in ("", ".", "..") else "model"}
        return data


class CorpusPolicy(Fact):
    """The text that quality is measured on.

    Attributes:
        source: `specimen` (the text that ships with sw-audit), the path of a text, JSON or Parquet file,
            or the name of a data set.
        config: Configuration of the data set, such as `wikitext-2-raw-v1`.
        split: Split of the data set.
        field: Column that holds the text.
        revision: Revision of the data set.
        window: Tokens the model sees at once, BOS included; by default the specimen text's own length
            (64 or so), else what the model allows, at most 2048.
        stride: New tokens per window; by default all of them, so that windows do not overlap.
        windows: At most so many windows.
        choices: Path of multiple-choice items (JSON lines with `context`, `choices`, `answer`), or
            `specimen`; by default the specimen's items with the specimen's text, else none.
        stop_words: Words counted as stop words; by default the specimen's or the common English ones.
    """

    source: str = Field(default="specimen", min_length=1)
    config: str | None = None
    split: str = "test"
    field: str = "text"
    revision: str | None = None
    window: int | None = Field(default=None, ge=2)
    stride: int | None = Field(default=None, ge=1)
    windows: int = Field(default=128, ge=1)
    choices: str | None = None
    stop_words: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _stride_fits(self) -> Self:
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(f"stride {self.stride} is larger than window {self.window}")
        return self


class QuantizationPolicy(Fact):
    """Which recipes are measured, each with and without hold-out.

    Attributes:
        recipes: In the notation of `parse_recipe`, such as `int4/64x64`.
        targets: Which decoder matrices are rounded: glob patterns on their names without `.weight`, such as
            `*.down_proj`; none means all. Embeddings, head and norms are never among them.
        ignore: Which of these are left alone, likewise. Every pattern has to match something.
    """

    recipes: tuple[str, ...] = ("int4/16x16", "int4/64x64", "int4/256x256", "int4/tensor")
    targets: tuple[Pattern, ...] = ()
    ignore: tuple[Pattern, ...] = ()

    @field_validator("recipes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [str(parse_recipe(notation)) for notation in value]
        if len(set(names)) < len(names):
            raise ValueError("a recipe is named twice")
        return tuple(names)

    def parsed(self) -> tuple[Recipe, ...]:
        """Return the recipes as values, in the policy's order."""
        return tuple(parse_recipe(notation) for notation in self.recipes)


class ConfirmationPolicy(Fact):
    """How far it is taken apart what zeroing the super weights does.

    Attributes:
        enabled: Whether parts of the set are zeroed on their own, its sign is flipped, it is scaled, and the
            mechanism is followed layer by layer. Without it `damage-follows-dose` is skipped.
        doses: What the set is multiplied by; 0 (zeroed) and 1 (the model as it is) are measured anyway.
    """

    enabled: bool = True
    doses: tuple[Annotated[float, Field(ge=0)], ...] = (0.1, 0.25, 0.5, 0.75, 1.5, 2.0, 3.0)

    @field_validator("doses")
    @classmethod
    def _distinct(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a dose is named twice")
        return value


class Policy(Fact):
    """Everything an audit is asked for; an empty file is a valid policy.

    Attributes:
        schema_number: Version of the policy's form.
        models: The models, `[[model]]` tables in a policy file.
        corpus: The text.
        quantization: The recipes.
        activations: How activations are quantized.
        confirmation: How far the effect of the super weights is taken apart.
        checks: Limits, one table per check.
        expect: What to expect of a model: `some` super weights, `none`, or `any` outcome.
        inconclusive: Whether an inconclusive verdict fails the run or only warns.
        prompts: Prompts for `super-activation-persists`; by default a built-in set.
        index: Path of an index file of your own (`sw-audit locate --update-index` writes one), for
            `matches-published-index` to use beside the published coordinates.
        confidence: Of every interval.
        resamples: Bootstrap resamples.
        minimum_windows: With fewer windows (or items) there is no interval, so no verdict.
        seed: Of everything that is drawn.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_number: Literal[1] = Field(default=1, alias="schema")
    models: tuple[ModelPolicy, ...] = Field(default=(), alias="model")
    corpus: CorpusPolicy = CorpusPolicy()
    quantization: QuantizationPolicy = QuantizationPolicy()
    activations: ActivationPolicy = ActivationPolicy()
    confirmation: ConfirmationPolicy = ConfirmationPolicy()
    checks: CheckLimits = CheckLimits()
    expect: Expectation = "some"
    inconclusive: Literal["fail", "warn"] = "fail"
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    index: str | None = Field(default=None, min_length=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, le=100_000)
    minimum_windows: int = Field(default=8, ge=2)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _distinct_ids(self) -> Self:
        ids = [model.id for model in self.models]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"two models are called {twice[0]!r}: give one of them another id")
        return self

    @model_validator(mode="after")
    def _limits_name_recipes(self) -> Self:
        limits = self.checks.rtn_holdout_quality
        unmeasured = [name for name in limits.maximum_ratio if name not in self.quantization.recipes]
        # A policy that is read back from a record has every default written out.
        if unmeasured and limits.maximum_ratio != type(limits)().maximum_ratio:
            raise ValueError(f"rtn-holdout-quality limits {unmeasured[0]!r}, which is not among the recipes")
        return self

    @model_validator(mode="after")
    def _limits_name_schemes(self) -> Self:
        limits = self.checks.activation_holdout_quality
        unmeasured = [name for name in limits.maximum_ratio if name not in self.activations.schemes]
        if unmeasured and limits.maximum_ratio != type(limits)().maximum_ratio:
            raise ValueError(
                f"activation-holdout-quality limits {unmeasured[0]!r}, which is not among the schemes"
            )
        return self

    def expectation(self, model: ModelPolicy) -> Expectation:
        """Return what is expected of one model."""
        return model.expect or self.expect

    def find_model(self, model_id: str) -> ModelPolicy:
        """Return the model of that id.

        Raises:
            KeyError: If there is none.
        """
        return {model.id: model for model in self.models}[model_id]
