"""A super weight in the language model inside a vision-language model is found there, from text alone."""

from __future__ import annotations

import pytest
from support.checkpoints import VISION, Family, make_model
from support.planted import Planted, plant_, wrap_model

from sw_audit.locate.locator import locate_super_weights
from sw_audit.record.location import Outcome

LAYERS = 6


class Words:
    """A tokenizer of numbers."""

    bos_token_id = 1

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert add_special_tokens is False
        return [int(word) for word in text.split()]


@pytest.mark.parametrize("family", VISION, ids=str)
def test_a_super_weight_of_the_language_model_inside_is_found(family: Family) -> None:
    text = {**family.settings["text_config"], "num_hidden_layers": LAYERS}
    checkpoint = wrap_model(make_model(family, text_config=text), tokenizer=Words())
    assert len(checkpoint.layers) == LAYERS
    plant_(checkpoint, Planted(layer=1, row=17, column=11))
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    assert location.outcome is Outcome.LOCATED, location.because
    [found] = location.super_weights
    assert found.parameter == family.projection.format(1) + ".weight"
    assert (found.layer, found.row, found.column) == (1, 17, 11)
