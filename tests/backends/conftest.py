from __future__ import annotations

from typing import Any

import pytest
from support.backends import WIDE
from support.checkpoints import LLAMA, make_model

from sw_audit.checkpoint.families import find_decoder_layers


@pytest.fixture
def llama() -> Any:
    """A model with an outlier in every down-projection."""
    model = make_model(LLAMA, **WIDE).requires_grad_(False)
    for layer in find_decoder_layers(model):
        layer.down_projections[0].weight[3, 5] = 2.0
    return model
