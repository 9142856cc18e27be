"""Whose descendant a model looks like: shared coordinates first, then values; shapes must agree."""

from __future__ import annotations

import pytest
from support.evidence import make_evidence, make_location

from sw_audit.index.reading import read_published
from sw_audit.record.fingerprint import Fingerprint, FingerprintWeight, Kin, compare_fingerprints, rank_kin
from sw_audit.record.location import Outcome


def make(name: str, *values: float | None, first: int = 0, layers: int | None = 8) -> Fingerprint:
    """Return a fingerprint with these values at coordinates counted from `first`."""
    weights = tuple(
        FingerprintWeight(layer=1, row=5, column=first + place, value=value) for place, value in enumerate(values)
    )
    return Fingerprint(name=name, layers=layers, hidden_size=64, weights=weights)


@pytest.mark.parametrize(
    ("other", "kin", "shared", "drift"),
    [
        (make("x", 2.0, -1.0), "same", 2, 0.0),
        (make("x", 1.9, -1.0), "close", 2, 0.1 / 1.9),
        (make("x", 1.6, -1.0), "close", 2, 0.25),
        (make("x", 1.0, -1.0), "moved", 2, 1.0),
        (make("x", 2.0, 1.0), "moved", 2, 2.0),
        (make("x", 2.0), "same", 1, 0.0),
        (make("x", None, None), "close", 2, None),
        (make("x", -1.0, 3.0, first=1), "partial", 1, 0.0),
        (make("x", 2.0, first=7), "none", 0, None),
        (make("x"), "none", 0, None),
        (make("x", 2.0, -1.0, layers=9), "none", 2, None),
        (make("x", 2.0, -1.0, layers=None), "same", 2, 0.0),
    ],
)
def test_likeness_is_by_coordinates_then_values(
    other: Fingerprint, kin: Kin, shared: int, drift: float | None
) -> None:
    found = compare_fingerprints(make("mine", 2.0, -1.0), other)
    assert (found.kin, found.shared, found.of) == (kin, shared, len(other.weights))
    assert found.drift == (None if drift is None else pytest.approx(drift))


def test_a_model_without_super_weights_resembles_nothing() -> None:
    assert compare_fingerprints(make("mine"), make("x", 2.0)).kin == "none"


def test_the_most_alike_comes_first() -> None:
    others = [make("d", 2.0, first=9), make("c", 2.0, 1.0), make("b", 2.1, -1.0), make("a", 2.0, -1.0)]
    assert [kinship.other for kinship in rank_kin(make("mine", 2.0, -1.0), others)] == ["a", "b", "c", "d"]


def test_a_fingerprint_of_a_model_holds_coordinates_values_ratios_and_gain() -> None:
    evidence = make_evidence("a")
    found = Fingerprint.of_model(evidence.model, evidence.location)
    assert str(found) == "llama/8x128 1[37,211]=-1.927"
    [weight], [loud] = found.weights, found.activations
    assert (weight.value, weight.ratio, weight.outlier) == (-1.9268, 1.0, 31.62)
    assert loud.gain == pytest.approx(-412.5 / -1.9268)
    none = Fingerprint.of_model(evidence.model, make_location(Outcome.NONE))
    assert (str(none), none.weights) == ("llama/8x128", ())


def test_every_published_model_looks_most_like_itself_or_one_with_the_same_coordinates() -> None:
    published = [Fingerprint.of_entry(entry) for entry in read_published().models]
    whole = [model for model in published if model.weights]
    assert len(whole) >= 10
    for model in whole:
        best = rank_kin(model, published)[0]
        alike = next(other for other in published if other.name == best.other)
        assert {weight.coordinate for weight in alike.weights} <= {weight.coordinate for weight in model.weights}
        assert best.kin in ("same", "close")


def test_what_was_refuted_is_no_part_of_a_fingerprint() -> None:
    olmo = next(entry for entry in read_published().models if entry.id == "allenai/OLMo-1B-0724-hf")
    coordinates = {weight.coordinate for weight in Fingerprint.of_entry(olmo).weights}
    assert (1, 1764, 1710, None) in coordinates
    assert (1, 1764, 8041, None) not in coordinates  # the misprint in the paper's table
