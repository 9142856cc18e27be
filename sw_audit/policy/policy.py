"""What an audit is asked to do: models, text, recipes, and the limits of each check."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sw_audit.checks import registry
from sw_audit.checks.limits import CheckLimits
from sw_audit.fact import Fact
from sw_audit.memory import parse_memory
from sw_audit.policy.model_policy import BosRule, Expectation, ModelPolicy, Seconds, Waiver
from sw_audit.policy.recipe import Recipe, parse_recipe
from sw_audit.policy.scheme import ActivationPolicy

__all__ = [
    "ConfirmationPolicy",
    "CorpusPolicy",
    "CriticalPolicy",
    "DescentPolicy",
    "Expectation",
    "ExpertsPolicy",
    "ModelPolicy",
    "Policy",
    "QuantizationPolicy",
]

Effort = Literal["quick", "standard", "thorough"]
Pattern = Annotated[str, Field(min_length=1)]
Memory = Annotated[int, BeforeValidator(parse_memory, json_schema_input_type=int | str)]


class CorpusPolicy(Fact):
    """The text that quality is measured on.

    Attributes:
        source: `english` (the text that ships with sw-audit; also `german`, `french`, `spanish`, `chinese`, each
            a short one), `specimen` (stories in the specimen's own language), the path of a text, JSON or Parquet
            file, or the name of a data set. `auto` is `specimen` for models of that language, else `english`.
        config: Configuration of the data set, such as `wikitext-2-raw-v1`.
        split: Split of the data set.
        field: Column that holds the text.
        revision: Revision of the data set.
        window: Tokens the model sees at once, BOS included; by default 256 on a text that ships with sw-audit
            (64 on the specimen's), else what the model allows, at most 2048.
        stride: New tokens per window; by default all of them, so that windows do not overlap.
        windows: At most so many windows; by default 128, and 24 on a text that ships with sw-audit but the
            specimen's, so that some is left to calibrate on.
        bos: Whether the BOS token stands before every text and prompt: `auto` as the model's own files have it
            (what the tokenizer returns, or what a GGUF file declares), `always`, or `never`.
        choices: Path of multiple-choice items (JSON lines with `context`, `choices`, `answer`), or `english` or
            `specimen`; by default those that ship with the text, else none.
        stop_words: Words counted as stop words; by default the specimen's with its text, none with a text in
            another language that ships with sw-audit, else the common English ones.
    """

    source: str = Field(default="auto", min_length=1)
    config: str | None = None
    split: str = "test"
    field: str = "text"
    revision: str | None = None
    window: int | None = Field(default=None, ge=2)
    stride: int | None = Field(default=None, ge=1)
    windows: int | None = Field(default=None, ge=1)
    bos: BosRule = "auto"
    choices: str | None = None
    stop_words: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _stride_fits(self) -> Self:
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(f"stride {self.stride} is larger than window {self.window}")
        return self


class QuantizationPolicy(Fact):
    """Which recipes are measured with hold-out; where rows share a scale, also without.

    Attributes:
        recipes: In the notation of `parse_recipe`, such as `int4/64x64`; by default what people ship, and the
            blocks of the paper's curve.
        targets: Which decoder matrices are rounded: glob patterns on their names without `.weight`, such as
            `*.down_proj`; none means all. Embeddings, head and norms are never among them.
        ignore: Which of these are left alone, likewise. Every pattern has to match something.
    """

    recipes: tuple[str, ...] = (
        *("int8/row", "int4/group64", "nf4/group64"),
        *("int4/16x16", "int4/64x64", "int4/256x256", "int4/tensor"),
    )
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
            mechanism is followed layer by layer. Without it the check on doses is skipped.
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


Intervention = Literal["zero", "negate", "median", "one"]
"""What a scalar is set to: 0, its negative, the median of its row or vector, or, of a gain, 1."""


class CriticalPolicy(Fact):
    """How scalars that matter are searched for, among all parameters.

    Attributes:
        candidates: How many are tried, alone or in groups, the first ones by the gradient; by default 160, in an
            audit 64 unless it is thorough.
        minimum_ratio: A scalar matters if zeroing it multiplies the perplexity by at least so much.
        interventions: What is done to a scalar. `zero` decides which matter, whether it is named or not; of the
            costliest it is told, too, what `negate` (the sign flipped, one bit), `median` (of its row or vector)
            and `one` (gains only) do.
    """

    candidates: int | None = Field(default=None, ge=1, examples=[160])
    minimum_ratio: float = Field(default=1.2, gt=1)
    interventions: tuple[Intervention, ...] = ("zero", "negate")


class ExpertsPolicy(Fact):
    """How experts of a mixture are tried; a dense model has none.

    Attributes:
        tried: At most so many are zeroed, each by itself and all together: those that hold super weights or
            critical scalars, and those whose output stands out. As many controls are zeroed beside them. 0 tries
            none.
    """

    tried: int = Field(default=4, ge=0)


class DescentPolicy(Fact):
    """How a descendant is held beside its parent.

    Attributes:
        texts: Further texts, in the form of `[corpus]`, that both are measured on.
        prompt_tokens: Lengths of the prompts that both go on with, and a model by itself.
        new_tokens: How many tokens are generated after each.
        long_new_tokens: How many are generated after the longest, once more.
        answer_prompts: So many built-in chat prompts are answered by both, to see how long the answers are; 0 asks
            none.
        answer_tokens: At most so many tokens are generated in answer to each.
        lm_eval: Names of tasks of lm-evaluation-harness (`pip install 'sw-audit[lm-eval]'`).
        lm_eval_limit: At most so many items of each.
        lm_eval_path: Folder with task files of your own.
        decisions: Path of questions of your own (JSON lines with `kind`, `name`, `prompt`), in place of the
            built-in ones: what both decide is read from the logits of how an answer begins.
        decisions_limit: At most so many questions of each kind; by default 30, and all if the audit is thorough.
        modules: So many of the worst modules are put back, one by one, where quality fails; 0 puts nothing back.
        layers: So many of the worst layers likewise.
        parts: At most so many parts are put back together, to see which of them recover the loss.
        may_differ: Settings that may be other than the parent's, such as `generation_config.temperature`; a glob
            pattern such as `generation_config.*` names several.
    """

    texts: tuple[CorpusPolicy, ...] = ()
    prompt_tokens: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 20, 100)
    new_tokens: int = Field(default=32, ge=1)
    long_new_tokens: int = Field(default=144, ge=1)
    answer_prompts: int = Field(default=32, ge=0, le=40)
    answer_tokens: int = Field(default=128, ge=1)
    lm_eval: tuple[Pattern, ...] = ()
    lm_eval_limit: int | None = Field(default=None, ge=1)
    lm_eval_path: str | None = None
    decisions: str | None = Field(default=None, min_length=1)
    decisions_limit: int | None = Field(default=None, ge=1)
    modules: int = Field(default=4, ge=0)
    layers: int = Field(default=2, ge=0)
    parts: int = Field(default=4, ge=1)
    may_differ: tuple[Pattern, ...] = ()


class Policy(Fact):
    """Everything an audit is asked for; an empty file is a valid policy.

    Attributes:
        schema_number: Version of the policy's form.
        models: The models, `[[model]]` tables in a policy file.
        corpus: The text.
        quantization: The recipes.
        activations: How activations are quantized.
        confirmation: How far the effect of the super weights is taken apart.
        critical: How scalars that matter are searched for.
        experts: How experts of a mixture are tried.
        descent: How a descendant is held beside its parent.
        compare: Name of a baseline (`--save NAME` keeps one) that every model is held against, or the path of a
            record.
        unverified: Whether that record is taken though it is not what was written, or nothing tells.
        waivers: Checks that may be other than PASS until a day, `[[waiver]]` tables in a policy file.
        checks: Limits, one table per check.
        effort: How much is measured. `quick`: what gates need. `standard`: what laws need as well. Both measure
            the text in steps, until every verdict is settled. `thorough`: every arm over the whole text.
        expect: What to expect of a model: `some` super weights, `none`, or `any` outcome. Of the models that ship
            with sw-audit it is known, and expected unless the policy says otherwise.
        laws: What becomes of a law that does not hold: `report` tells it, `gate` fails the run.
        inconclusive: Whether an inconclusive gate fails the run or only warns.
        prompts: Prompts that the super activation is followed on; by default a built-in set.
        index: Path of an index file of your own (`sw-audit locate --update-index` writes one), to
            use beside the published coordinates.
        confidence: Of every interval.
        minimum_windows: With fewer windows (or items) there is no interval, so no verdict.
        seed: Of everything that is drawn.
        budget: Time after which the whole run ends, all models together: `90` or `90s`, `5min`, `1h30min`. What is
            not decided by then is inconclusive, and the next run goes on from what was measured.
        memory: How much memory the models and the work on them may take, beyond the program itself: `8GiB`, `16GB`
            or bytes. A model that does not fit is read layer by layer, and what is computed is the same.
        redaction: Whether home folders and user names in paths, and secrets, are left out of what is written.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_number: Literal[1] = Field(default=1, alias="schema")
    models: tuple[ModelPolicy, ...] = Field(default=(), alias="model")
    corpus: CorpusPolicy = CorpusPolicy()
    quantization: QuantizationPolicy = QuantizationPolicy()
    activations: ActivationPolicy = ActivationPolicy()
    confirmation: ConfirmationPolicy = ConfirmationPolicy()
    critical: CriticalPolicy = CriticalPolicy()
    experts: ExpertsPolicy = ExpertsPolicy()
    descent: DescentPolicy = DescentPolicy()
    compare: str | None = Field(default=None, min_length=1)
    unverified: bool = False
    waivers: tuple[Waiver, ...] = Field(default=(), alias="waiver")
    checks: CheckLimits = Field(default_factory=CheckLimits)
    effort: Effort = "standard"
    expect: Expectation = "any"
    laws: Literal["report", "gate"] = "report"
    inconclusive: Literal["fail", "warn"] = "fail"
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    index: str | None = Field(default=None, min_length=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    minimum_windows: int = Field(default=4, ge=2)
    seed: int = Field(default=0, ge=0)
    budget: Seconds | None = None
    memory: Memory | None = None
    redaction: bool = True

    @model_validator(mode="after")
    def _distinct_ids(self) -> Self:
        ids = [model.id for model in self.models]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"two models are called {twice[0]!r}: give one of them another id")
        return self

    @model_validator(mode="after")
    def _descended_from_others(self) -> Self:
        for model in self.models:
            same_files = model.parent == model.source and model.revision is None and model.gguf is None
            if model.parent is not None and (model.parent == model.id or same_files):
                raise ValueError(
                    f"model {model.id!r} is its own parent: name what it was made from, or change its id"
                )
        return self

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        for check in registry.find_checks().values():
            if check.examine is not None and (wrong := check.examine(self)) is not None:
                raise ValueError(wrong)
        return self

    def expectation(self, model: ModelPolicy) -> Expectation:
        """Return what is expected of one model."""
        return model.expect or self.expect

    def bos_rule(self, model: ModelPolicy, text: CorpusPolicy | None = None) -> BosRule:
        """Return whether BOS stands before what a model is given, on the policy's own text or a further one."""
        return model.bos or (text or self.corpus).bos

    def find_model(self, model_id: str) -> ModelPolicy:
        """Return the model of that id.

        Raises:
            KeyError: If there is none.
        """
        return {model.id: model for model in self.models}[model_id]

    def find_parent(self, model: ModelPolicy) -> ModelPolicy | None:
        """Return what a model was made from: another of the policy's models, or what its source says.

        One that only the source names runs in the same engine, if that may run its files.
        """
        if model.parent is None:
            return None
        known = {other.id: other for other in self.models}
        return known.get(model.parent) or ModelPolicy(
            source=model.parent,
            device=model.device,
            bos=model.bos,
            trust_remote_code=model.trust_remote_code,
            allow_pickle=model.allow_pickle,
            engine=model.engine,
            timeout=model.timeout,
            top_tokens=model.top_tokens,
        )
