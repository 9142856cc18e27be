from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.evidence import SUPER_WEIGHT, make_arms, make_policy

from sw_audit.errors import PolicyError
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import (
    AddressGroup,
    ScalarAddress,
    WeightAddress,
    group_addresses,
    list_addresses,
    parse_address,
)
from sw_audit.record.arm import Arm, Custom, Quantize, Scale, SetScalars

addresses = st.lists(
    st.builds(
        WeightAddress,
        parameter=st.sampled_from(["a", "b"]),
        row=st.integers(0, 9),
        column=st.integers(0, 9),
        expert=st.one_of(st.none(), st.integers(0, 1)),
    ),
    max_size=20,
)


@given(located=addresses)
def test_grouping_and_listing_undo_each_other(located: list[WeightAddress]) -> None:
    groups = group_addresses(located)
    listed = list_addresses(groups)
    assert sorted(listed, key=str) == sorted(located, key=str)
    assert group_addresses(listed) == groups
    assert sum(len(group) for group in groups) == len(located)


@given(located=addresses)
def test_grouping_keeps_the_order_between_groups_and_inside_of_each(located: list[WeightAddress]) -> None:
    groups = group_addresses(located)
    keys = [(group.parameter, group.expert) for group in groups]
    assert keys == list(dict.fromkeys((address.parameter, address.expert) for address in located))
    for group in groups:
        inside = [
            address
            for address in located
            if (address.parameter, address.expert) == (group.parameter, group.expert)
        ]
        assert list(list_addresses([group])) == inside


def test_a_group_is_of_pairs() -> None:
    with pytest.raises(ValidationError, match="2 rows but 1 columns"):
        AddressGroup(parameter="w", rows=(1, 2), columns=(3,))


@pytest.mark.parametrize("index", [-1, 1.5])
def test_an_index_counts_from_zero(index: float) -> None:
    with pytest.raises(ValidationError):
        WeightAddress.model_validate({"parameter": "w", "row": index, "column": 0})


def test_an_address_is_written_with_its_frame() -> None:
    address = WeightAddress(parameter="model.layers.2.mlp.down_proj.weight", row=3968, column=7003)
    assert str(address) == "model.layers.2.mlp.down_proj.weight[3968, 7003]"
    fused = WeightAddress(parameter="w", row=1, column=2, expert=5)
    assert str(fused) == "w[expert 5, 1, 2]"


def test_a_super_weight_s_address_is_the_place_without_what_is_there() -> None:
    assert type(SUPER_WEIGHT.address) is WeightAddress
    assert str(SUPER_WEIGHT.address) == str(SUPER_WEIGHT)


def test_an_arm_tells_every_scalar_it_names() -> None:
    group = AddressGroup(parameter="w", rows=(1,), columns=(2,))
    recipe = parse_recipe("int4/row")
    fused = AddressGroup(parameter="e", rows=(1, 3), columns=(2, 4), expert=5)
    gain = ScalarAddress(parameter="norm", index=(7,))
    acts = (
        Scale(addresses=(group,), factor=0.0),
        Quantize(recipe=recipe, holdout=(group, fused)),
        SetScalars(scalars=(gain,), values=(1.5,)),
    )
    told = [str(address) for address in Arm(purpose=Custom(label="both"), acts=acts).addressed()]
    assert told == ["w[1, 2]", "w[1, 2]", "e[5, 1, 2]", "e[5, 3, 4]", "norm[7]"]
    names = [arm.name for arm in make_arms(make_policy())]
    assert len(set(names)) == len(names)


@given(located=addresses)
def test_the_notation_of_an_address_reads_back(located: list[WeightAddress]) -> None:
    assert [parse_address(str(address)) for address in located] == located


@pytest.mark.parametrize("notation", ["", "a", "a[1]", "a[1, 2, 3]", "a[-1, 2]", "[1, 2]", "a b[1, 2]", "a[x, 2]"])
def test_what_is_no_address_is_one_line(notation: str) -> None:
    with pytest.raises(PolicyError, match=r"this is no address of a weight; write it like "):
        parse_address(notation)
