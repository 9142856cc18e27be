from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.errors import PolicyError
from sw_audit.policy.targets import PatternMatch, is_targeted, match_targets

NAMES = [
    f"model.layers.{layer}.{name}.weight"
    for layer in range(12)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
]


def list_matches(targets: tuple[str, ...], ignore: tuple[str, ...]) -> list[tuple[str, str, int]]:
    return [(match.pattern, match.role, match.matrices) for match in match_targets(NAMES, targets, ignore)]


def test_without_patterns_every_matrix_is_a_target() -> None:
    assert list_matches((), ()) == [("*", "target", 48)]
    assert all(is_targeted(name, (), ()) for name in NAMES)


def test_each_pattern_is_counted_and_what_is_ignored_among_the_targets_only() -> None:
    # Layers 1, 10 and 11 begin with 1; a pattern to ignore that meets no target would do nothing.
    matches = list_matches(("*.down_proj", "model.layers.1*.mlp.*"), ("model.layers.11.*",))
    assert matches == [
        ("*.down_proj", "target", 12),
        ("model.layers.1*.mlp.*", "target", 6),
        ("model.layers.11.*", "ignore", 2),
    ]


def test_patterns_are_case_sensitive_and_on_the_name_without_weight() -> None:
    assert is_targeted("a.A_log", ("*.A_log",), ())
    assert not is_targeted("a.A_log", ("*.a_log",), ())
    assert is_targeted("x.down_proj.weight", ("*down_proj",), ())
    assert not is_targeted("x.down_proj.weight", ("*down_proj.weight",), ())


@pytest.mark.parametrize(
    ("targets", "ignore", "words"),
    [
        (
            ("*.Down_proj",),
            (),
            "'\\*.Down_proj': it matches none of 48 decoder matrices, such as 'model.layers.0.mlp",
        ),
        (("*.up_proj", "lm_head"), (), "target 'lm_head'"),
        ((), ("*.c_proj",), "ignore '\\*.c_proj': it matches none of 48 targeted matrices"),
        (("*.up_proj",), ("*.down_proj",), "ignore '\\*.down_proj': it matches none of 12 targeted"),
        (("*.up_proj",), ("*.mlp.*",), "nothing is left of 12 targeted matrices"),
    ],
)
def test_a_pattern_that_does_nothing_is_one_line(
    targets: tuple[str, ...], ignore: tuple[str, ...], words: str
) -> None:
    with pytest.raises(PolicyError, match=words):
        match_targets(NAMES, targets, ignore)


patterns = st.lists(st.sampled_from(["*", "*.mlp.*", "*_proj", "model.layers.[0-3].*", "*.q_proj"]), max_size=3)


@given(targets=patterns, ignore=patterns)
def test_the_counts_are_those_of_what_is_targeted(targets: list[str], ignore: list[str]) -> None:
    chosen = [name for name in NAMES if is_targeted(name, targets, ignore)]
    try:
        matches = match_targets(NAMES, targets, ignore)
    except PolicyError:
        assert ignore
        return
    assert chosen
    assert len(chosen) <= sum(match.matrices for match in matches if match.role == "target")
    assert [match.pattern for match in matches] == [*(targets or ["*"]), *ignore]
    assert isinstance(matches[0], PatternMatch)
