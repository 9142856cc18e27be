from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.checks.activation_holdout_quality import ActivationHoldoutQualityLimits
from sw_audit.checks.limits import CheckLimits
from sw_audit.errors import PolicyError
from sw_audit.policy.policy import Policy
from sw_audit.policy.scheme import ActivationPolicy, ActivationSetup, AlphaSearch, Scheme, parse_scheme

SCHEMES = st.builds(Scheme, weights=st.integers(2, 8) | st.just(16), activations=st.integers(2, 8))


@given(SCHEMES)
def test_a_scheme_is_read_back_from_its_notation(scheme: Scheme) -> None:
    assert parse_scheme(str(scheme)) == scheme
    assert parse_scheme(f" {str(scheme).upper()} ") == scheme


@pytest.mark.parametrize("notation", ["", "w8", "a8w8", "w1a8", "w9a8", "w12a8", "w8a16", "w8a9", "w8a8/row", "8"])
def test_what_is_no_scheme_is_refused_in_one_line(notation: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_scheme(notation)
    assert repr(notation) in str(caught.value)
    assert "w8a8" in str(caught.value)


def test_sixteen_bits_of_weights_are_full_precision() -> None:
    assert parse_scheme("w16a8").recipe("tensor") is None
    assert str(parse_scheme("w8a8").recipe("tensor")) == "int8/tensor/symmetric"
    assert str(parse_scheme("w4a8").recipe("row")) == "int4/row/symmetric"
    with pytest.raises(ValueError, match="or 16, not 12"):
        Scheme(weights=12, activations=8)


def test_the_policy_writes_schemes_canonically_and_takes_none_twice() -> None:
    policy = ActivationPolicy(schemes=("W8A8", "w16a4"))
    assert policy.schemes == ("w8a8", "w16a4")
    assert policy.parsed() == (Scheme(weights=8, activations=8), Scheme(weights=16, activations=4))
    assert policy.model_copy(update={"enabled": False}).parsed() == ()
    with pytest.raises(ValueError, match="twice"):
        ActivationPolicy(schemes=("w8a8", "W8A8"))
    with pytest.raises(ValueError, match="twice"):
        ActivationPolicy(alphas=(0.5, 0.5))


def test_a_limit_on_a_scheme_that_is_not_measured_is_refused_but_for_the_defaults() -> None:
    limits = CheckLimits(
        {"activation-holdout-quality": ActivationHoldoutQualityLimits(maximum_ratio={"W4A8": 1.5})}
    )
    assert limits[ActivationHoldoutQualityLimits].maximum_ratio == {"w4a8": 1.5}
    with pytest.raises(ValueError, match="'w4a8', which is not among the schemes"):
        Policy(checks=limits)
    Policy(checks=limits, activations=ActivationPolicy(schemes=("w4a8",)))
    Policy(activations=ActivationPolicy(schemes=("w16a8",)))


def test_a_setup_tells_which_alpha_was_chosen() -> None:
    setup = ActivationSetup(searches=(AlphaSearch(scheme="w8a8", trials=(), chosen=0.7),))
    assert (setup.chosen("w8a8"), setup.chosen("w16a4")) == (0.7, None)
