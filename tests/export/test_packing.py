"""What compressed-tensors cannot express is refused."""

from __future__ import annotations

import pytest

from sw_audit.errors import PolicyError
from sw_audit.export.packing import require_packing
from sw_audit.policy.recipe import parse_recipe


@pytest.mark.parametrize("notation", ["int4/row", "nf4/row", "int4/run64/symmetric"])
def test_what_the_format_cannot_express_is_refused_before_anything_is_opened(notation: str) -> None:
    with pytest.raises(PolicyError, match="as compressed-tensors"):
        require_packing(parse_recipe(notation))
