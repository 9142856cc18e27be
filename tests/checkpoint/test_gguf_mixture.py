"""Names of GGUF files against the types of their tensors, with files made up of shapes alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sw_audit.checkpoint.gguf_mixture import hold_mixture

gguf = pytest.importorskip("gguf")


def make(kinds: str, width: int = 256, file_type: int | None = None, **others: str) -> Any:
    """Make what a reader says of matrices of 512 rows, one of each of the types that are listed."""
    names = {f"blk.{number}.ffn_up.weight": kind for number, kind in enumerate(kinds.split())}
    tensors = [
        SimpleNamespace(name=name, shape=(width, 512), tensor_type=gguf.GGMLQuantizationType[kind])
        for name, kind in {**names, **{f"{key}.weight": kind for key, kind in others.items()}}.items()
    ]
    field = None if file_type is None else SimpleNamespace(contents=lambda: file_type)
    return SimpleNamespace(tensors=tensors, get_field=lambda _: field)


SOUND = {
    "a mixture": ("it-Q4_K_M", make("Q4_K Q4_K Q6_K", output="Q6_K")),
    "lower case": ("it.q4_k_m", make("Q4_K Q4_K Q6_K")),
    "short rows": ("it-Q4_K_M", make("Q5_0 Q5_0 Q4_K", width=576)),
    "short rows of few bits": ("it-Q2_K", make("IQ4_NL IQ4_NL Q2_K", width=576)),
    "experts as trained": ("it-Q4_K_M", make("MXFP4 MXFP4 MXFP4 Q4_K")),
    "only experts as trained": ("it-F16", make("MXFP4 MXFP4")),
    "a dynamic mixture": ("it-UD-Q4_K_M", make("Q2_K Q2_K")),
    "a name of others": ("it-Q4_K_XL", make("Q2_K Q2_K")),
    "two types in a name": ("it-Q8_0-to-Q4_0", make("Q2_K Q2_K")),
    "no type in a name": ("it", make("Q2_K Q2_K")),
    "part of a word": ("myQ4_0", make("Q2_K")),
    "neighbours in a family": ("it-IQ3_XS", make("IQ3_XXS IQ3_XXS IQ3_S")),
    "another float": ("it-F16", make("BF16 BF16")),
    "metadata that agree": ("it", make("Q8_0", file_type=7)),
    "metadata of no type": ("it", make("Q8_0", file_type=9999)),
}


@pytest.mark.parametrize("case", SOUND)
def test_a_name_that_its_mixture_bears_out_says_nothing(case: str) -> None:
    stem, reader = SOUND[case]
    assert hold_mixture(Path(f"{stem}.gguf"), reader) == ()


@pytest.mark.parametrize(
    ("stem", "reader", "said", "stored", "serious"),
    [
        (
            "it-Q4_K_M",
            make("Q2_K Q2_K Q3_K"),
            "its name says Q4_K_M",
            "67 % of the weights in its layers are Q2_K",
            True,
        ),
        ("it.Q8_0", make("Q4_0"), "its name says Q8_0", "100 % of the weights in its layers are Q4_0", True),
        ("it-F16", make("Q8_0"), "its name says F16", "100 % of the weights in its layers are Q8_0", True),
        (
            "it-Q4_K_M",
            make("Q5_0 Q5_0 Q4_K"),
            "its name says Q4_K_M",
            "67 % of the weights in its layers are Q5_0",
            True,
        ),
        ("it", make("Q2_K", file_type=15), "general.file_type says Q4_K_M", "100 % of the weights", False),
        ("it-Q4_K_M", make("Q4_K Q4_K Q2_K"), "its name says Q4_K_M", "it is Q2_K, of fewer bits than any", False),
        ("it-Q5_K_S", make("Q5_K", output="Q3_K"), "its name says Q5_K_S", "it is Q3_K, of fewer bits", False),
    ],
)
def test_a_name_that_contradicts_most_weights_is_serious_and_less_is_told(
    stem: str, reader: Any, said: str, stored: str, *, serious: bool
) -> None:
    (found,) = hold_mixture(Path(f"{stem}.gguf"), reader)
    assert (found.said, found.serious) == (said, serious)
    assert found.stored.startswith(stored)
