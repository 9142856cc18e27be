"""What an adapter does to one tensor, by hand; whole merges are done again in tests/files/test_merge.py."""

from __future__ import annotations

import torch

from sw_audit.checkpoint.adapters import AdapterTensors, Change
from sw_audit.checkpoint.lazy_tensor import LazyTensor
from sw_audit.checkpoint.streaming import AdaptedTensors

WEIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
OUTWARD, INWARD = torch.tensor([[1.0], [-2.0]]), torch.tensor([[3.0, 5.0]])


class Base:
    """Two tensors in bfloat16."""

    def list_lazy(self) -> dict[str, LazyTensor]:
        return {name: LazyTensor.of(name, (2, 2), torch.bfloat16) for name in ("layer.a.weight", "layer.b.weight")}

    def map_tensors(self, names: object) -> dict[str, torch.Tensor]:
        assert isinstance(names, list)
        return {name: WEIGHT.bfloat16() for name in names}

    def map_tensor(self, name: str) -> torch.Tensor:
        return self.map_tensors([name])[name]

    def read_ahead(self, names: object) -> None:
        pass


def test_a_product_is_added_and_its_magnitudes_bound_it() -> None:
    change = Change(outward=OUTWARD, inward=INWARD, scale=0.5)
    assert change.apply(WEIGHT).tolist() == [[2.5, 4.5], [0.0, -1.0]]
    assert change.bound(WEIGHT).tolist() == [[2.5, 4.5], [6.0, 9.0]]
    turned = Change(outward=OUTWARD, inward=INWARD, scale=-0.5, turned=True)
    assert turned.apply(WEIGHT).tolist() == [[-0.5, 5.0], [0.5, 9.0]]
    assert Change().apply(WEIGHT) is WEIGHT
    assert Change(saved=2 * WEIGHT).apply(WEIGHT).tolist() == [[2, 4], [6, 8]]


def test_magnitudes_take_the_place_of_the_lengths_of_rows() -> None:
    change = Change(outward=torch.zeros(2, 1), inward=INWARD, magnitude=torch.tensor([10.0, 0.5]))
    rows = change.apply(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    assert torch.allclose(rows, torch.tensor([[6.0, 8.0], [0.0, 0.5]]))


def test_rank_scale_and_patterns_are_those_of_the_configuration() -> None:
    parts = {"layer.a": {"lora_A.weight": INWARD, "lora_B.weight": OUTWARD}}
    settings = {"lora_alpha": 4, "alpha_pattern": {"a": 6}}
    adapter = AdapterTensors(settings, parts, {})
    assert adapter.targets == ["layer.a.weight"]
    assert adapter.find_change("layer.a.weight").scale == 6.0  # alpha over the rank of 1


def test_a_tensor_of_a_base_that_is_read_one_at_a_time_is_changed_in_float32() -> None:
    adapted = AdaptedTensors(Base(), {"layer.a.weight": Change(outward=OUTWARD, inward=INWARD, scale=0.01)})
    lazy = adapted.list_lazy()
    assert [lazy[name].dtype for name in lazy] == [torch.float32, torch.bfloat16]
    assert torch.equal(adapted.map_tensor("layer.b.weight"), WEIGHT.bfloat16())
    assert torch.equal(adapted.map_tensor("layer.a.weight"), WEIGHT + OUTWARD @ INWARD * 0.01)
