"""Published coordinates of super weights: who found them, what zeroing them did, and what is known of a model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from sw_audit.fact import Fact
from sw_audit.record.address import Index, ScalarAddress

Trust = Literal["low", "medium-low", "medium", "medium-good", "good", "high"]
TRUST: tuple[Trust, ...] = ("low", "medium-low", "medium", "medium-good", "good", "high")
"""Grades of trust in a source, the lowest first."""

Words = Annotated[str, Field(min_length=1)]


class Impact(StrEnum):
    """What a published scalar has been shown to carry.

    `alone`: zeroing it alone is a collapse (perplexity at least tenfold, or the like). `jointly`: zeroing the
    set it belongs to is one, though none of the set is one alone, as far as was measured. `minor`: zeroed alone
    it does less, and no set is known that collapses for want of it. `unmeasured`: nobody has told. `refuted`:
    published as a false positive, or measured to do nothing without ever having made a spike.
    """

    ALONE = "alone"
    JOINTLY = "jointly"
    MINOR = "minor"
    UNMEASURED = "unmeasured"
    REFUTED = "refuted"


class LocalFinding(Fact):
    """How a local finding was made.

    Attributes:
        tool: Program and version.
        created: When, ISO 8601 in UTC.
        digest: Digest of the model's weight files.
        revision: Hub revision, if one was given.
        dtype: Dtype it was run in.
        prompt: The locating prompt.
        bos: Whether a BOS token was put before it.
        settings: The locator's thresholds.
    """

    tool: str
    created: str
    digest: str
    revision: str | None = None
    dtype: str
    prompt: str
    bos: bool
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)


class Source(Fact):
    """Where a coordinate or a figure comes from.

    Attributes:
        key: Short name by which entries refer to it.
        title: Title, or what it is.
        authors: Who.
        year: When.
        venue: Where it appeared.
        arxiv: arXiv id, with the version that was read where one was fixed.
        url: Address.
        trust: How far it is trusted, and `note` says why.
        note: What a reader should know about it.
        finding: How it was found, for a local finding.
    """

    key: Words
    title: Words
    authors: str = ""
    year: int | None = None
    venue: str = ""
    arxiv: str | None = None
    url: str | None = None
    trust: Trust
    note: str = ""
    finding: LocalFinding | None = None

    @property
    def reference(self) -> str:
        """The source in one line."""
        where = [self.venue, f"arXiv {self.arxiv}" if self.arxiv else "", self.url or ""]
        named = ", ".join(part for part in (self.authors, str(self.year or "")) if part)
        ended = "; ".join(part for part in where if part)
        return f"{named + ': ' if named else ''}{self.title}{'. ' + ended if ended else ''}"


class Effect(Fact):
    """What somebody measured when scalars were zeroed.

    Attributes:
        zeroed: One `weight`, its whole `row`, or the `set` of the model's published scalars.
        words: The figures, as the source gives them.
        ratio: Perplexity after over perplexity before, where the source gives it.
        source: Key of the source.
    """

    zeroed: Literal["weight", "row", "set"]
    words: Words
    ratio: float | None = None
    source: str


class PublishedWeight(Fact):
    """One published scalar, or as much of its coordinate as is known: by layer, row and column, or by `index`.

    Attributes:
        layer: Decoder layer, counted from 0.
        row: Output channel of the layer's down-projection.
        column: Its input channel; without it the entry is of a whole row.
        expert: Index of the expert, where there are several.
        parameter: Qualified name, where it was recorded.
        index: In place of row, column and expert, one to three numbers: a scalar of any parameter, which is named.
        value: The weight.
        bearing: What it has been shown to carry.
        sources: Keys of the sources of the coordinate.
        effects: What zeroing it did.
        note: What a reader should know.
    """

    layer: Index | None = None
    row: Index | None = None
    column: Index | None = None
    expert: Index | None = None
    parameter: str | None = None
    index: tuple[Index, ...] | None = Field(default=None, min_length=1, max_length=3)
    value: float | None = None
    bearing: Impact
    sources: tuple[str, ...] = Field(min_length=1)
    effects: tuple[Effect, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _names_one_scalar(self) -> Self:
        if self.index is not None and not self.parameter:
            raise ValueError("`index` stands without `parameter`, which says what it is an index of")
        if self.index is not None and (self.row, self.column, self.expert) != (None, None, None):
            raise ValueError("`index` stands beside `row`, `column` or `expert`: give either")
        return self

    @property
    def scalar(self) -> ScalarAddress | None:
        """The scalar of any parameter that is given by its index; `None` of a row or column of an MLP."""
        if self.index is None or self.parameter is None:
            return None
        return ScalarAddress(parameter=self.parameter, index=self.index)

    @property
    def is_scalar(self) -> bool:
        """Whether layer, row and column are all known, as of a super weight."""
        return None not in (self.layer, self.row, self.column)

    @property
    def coordinate(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Layer, row, column and expert."""
        return self.layer, self.row, self.column, self.expert

    def __str__(self) -> str:
        if self.scalar is not None:
            return str(self.scalar)
        layer, row, column = ("?" if part is None else str(part) for part in self.coordinate[:3])
        expert = "" if self.expert is None else f"expert {self.expert}, "
        if self.row is not None and self.column is None:
            return f"layer {layer}, {expert}row {row}"
        return f"layer {layer} [{expert}{row}, {column}]"


CurveUnit: TypeAlias = Literal["perplexity ratio", "percent"]


class Curve(Fact):
    """A measured figure over the factor by which the scalars were scaled.

    Attributes:
        quantity: What was measured.
        unit: What its figures are in, where others in the same unit can be compared with them.
        source: Key of the source.
        points: Factor and figure.
    """

    quantity: Words
    unit: CurveUnit | None = None
    source: str
    points: tuple[tuple[float, float], ...]


class Remark(Fact):
    """Something to know about a model's entries.

    Attributes:
        kind: A `note`, or a `disagreement` between sources.
        words: What.
        sources: Keys of the sources.
    """

    kind: Literal["note", "disagreement"] = "note"
    words: Words
    sources: tuple[str, ...] = ()


class Variant(Fact):
    """A model made from an indexed one, for which somebody claims the same coordinates.

    Attributes:
        id: Hub id.
        claim: What is claimed, and by whom it is disputed.
        sources: Keys of the sources.
    """

    id: Words
    claim: Words
    sources: tuple[str, ...] = ()


class PublishedModel(Fact):
    """One model's published coordinates.

    Attributes:
        id: Hub id, or the name in the literature where no hub id is known.
        aliases: Other hub ids of the same weights.
        digests: Digests of weight files that the finding was made in, see `ModelIdentity.digests`.
        variants: Models made from it.
        weights: Its scalars and rows; the order is the sources'.
        effects: What zeroing several of them together did.
        curves: What scaling them did.
        remarks: What to know.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: Words
    aliases: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = Field(default=(), alias="variant")
    weights: tuple[PublishedWeight, ...] = Field(default=(), alias="weight")
    effects: tuple[Effect, ...] = ()
    curves: tuple[Curve, ...] = Field(default=(), alias="curve")
    remarks: tuple[Remark, ...] = Field(default=(), alias="remark")


class PublishedIndex(Fact):
    """An index: models with their coordinates, and the sources that they cite.

    Attributes:
        schema_number: Version of the form, and the mark by which a file is known to be an index.
        sources: What is cited.
        models: The models.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_number: Literal[1] = Field(alias="sw-audit-index")
    sources: tuple[Source, ...] = Field(default=(), alias="source")
    models: tuple[PublishedModel, ...] = Field(default=(), alias="model")


class Match(StrEnum):
    """By what a model was matched with an entry.

    `listed`: its hub id is the entry's. `digest`: its weight files are those that the entry was found in.
    `named`: the policy names the entry. `variant`: it is an instruct or chat variant of the entry's model.
    `derived`: its own files say that it was made from that model. `none`: there is no entry.
    """

    LISTED = "listed"
    DIGEST = "digest"
    NAMED = "named"
    VARIANT = "variant"
    DERIVED = "derived"
    NONE = "none"


class Lookup(Fact):
    """What an index knows of one model.

    Attributes:
        asked: The name that was looked up.
        match: By what it was matched.
        because: The same in words; without a match, why there is none.
        model: The entry.
        sources: The sources that the entry cites.
        nearest: Ids that resemble the name, where there is no match.
    """

    asked: str
    match: Match
    because: str
    model: PublishedModel | None = None
    sources: tuple[Source, ...] = ()
    nearest: tuple[str, ...] = ()

    @property
    def inherited(self) -> bool:
        """Whether the coordinates are those of a model that this one was made from."""
        return self.match in (Match.VARIANT, Match.DERIVED)

    def cite(self, key: str) -> Source | None:
        """Return a source by its key."""
        return next((source for source in self.sources if source.key == key), None)


class DoseCurve(Fact):
    """One published curve.

    Attributes:
        model: The model's hub id.
        quantity: What was measured, in words.
        unit: What its figures are in, where that is known.
        points: Factor by which the super weights were multiplied, and figure; by rising factor.
        source: Who measured it.
        own: Whether it is a curve of the audited model, and not only shown to compare with.
    """

    model: str
    quantity: str
    unit: CurveUnit | None = None
    points: tuple[tuple[float, float], ...] = Field(min_length=1)
    source: str
    own: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Self:
        factors = [factor for factor, _ in self.points]
        if factors != sorted(set(factors)):
            raise ValueError("the factors of a dose curve must rise")
        return self

    @property
    def is_perplexity_ratio(self) -> bool:
        """Whether its figures are perplexities over that of the model as it is, and so comparable with ours."""
        return self.unit == "perplexity ratio"
