"""Arms side by side give what separate runs give, bit for bit, and leave no trace."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import pytest
import torch
from support.planted import Planted, build_gpt2, build_llama, plant_, wrap_model

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.engine import run_arms
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Quantize, RestoreActivation, Scale, SetTo

BUILDERS = {"llama": build_llama, "gpt2": build_gpt2}
SUPER = Planted(layer=2, row=17, column=90)


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    texts = torch.randint(3, 101, (5, 9), generator=generator)
    texts[:, 0] = 1
    return [texts[:3], texts[3:], texts[:2, :4]]


def address(checkpoint: Checkpoint) -> AddressGroup:
    down = checkpoint.layers[SUPER.layer].down_projection
    assert down is not None
    return AddressGroup(parameter=down.parameter, rows=(SUPER.row,), columns=(SUPER.column,))


def open_planted(family: str) -> Checkpoint:
    checkpoint = wrap_model(BUILDERS[family]())
    plant_(checkpoint, SUPER)
    return checkpoint


def collect(checkpoint: Checkpoint, arms: list[Arm]) -> dict[tuple[int, int], torch.Tensor]:
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def read(batch: int, arm: int, logits: torch.Tensor, baseline: torch.Tensor) -> None:
        assert arm == 0 or torch.equal(baseline, seen[batch, 0])
        seen[batch, arm] = logits.clone()

    run_arms(checkpoint, arms, batches(), read)
    return seen


def run_alone(checkpoint: Checkpoint, change: Callable[[Checkpoint], None]) -> list[torch.Tensor]:
    """Run the plain model, changed for good, one batch after the other."""
    alone = wrap_model(copy.deepcopy(checkpoint.model))
    with torch.no_grad():
        change(alone)
        return [alone.model(input_ids=token_ids, use_cache=False).logits for token_ids in batches()]


def scale_to(factor: float) -> Callable[[Checkpoint], None]:
    def change(checkpoint: Checkpoint) -> None:
        down = checkpoint.layers[SUPER.layer].down_projection
        assert down is not None
        down.weight[SUPER.row, SUPER.column] *= factor

    return change


def set_to(value: float) -> Callable[[Checkpoint], None]:
    def change(checkpoint: Checkpoint) -> None:
        down = checkpoint.layers[SUPER.layer].down_projection
        assert down is not None
        down.weight[SUPER.row, SUPER.column] = value

    return change


def rounded(checkpoint: Checkpoint) -> None:
    for layer in checkpoint.layers:
        for matrix in layer.matrices:
            matrix.weight.copy_(round_to_nearest(matrix.weight, parse_recipe("int4/16x16")))


@pytest.mark.parametrize("family", BUILDERS)
def test_arms_side_by_side_equal_separate_runs_bit_for_bit(family: str) -> None:
    checkpoint = open_planted(family)
    group = (address(checkpoint),)
    changes: dict[Arm, Callable[[Checkpoint], None]] = {
        BASELINE: lambda _: None,
        Arm(name="zero", acts=(Scale(addresses=group, factor=0.0),)): scale_to(0.0),
        Arm(name="half", acts=(Scale(addresses=group, factor=0.5),)): scale_to(0.5),
        Arm(name="set", acts=(SetTo(addresses=group, value=-1.25),)): set_to(-1.25),
        Arm(name="rtn", acts=(Quantize(recipe=parse_recipe("int4/16x16")),)): rounded,
    }
    seen = collect(checkpoint, list(changes))
    for number, change in enumerate(changes.values()):
        for batch, expected in enumerate(run_alone(checkpoint, change)):
            assert torch.equal(seen[batch, number], expected), (number, batch)
    assert not torch.equal(seen[0, 0], seen[0, 1])


@pytest.mark.parametrize("family", BUILDERS)
def test_a_restored_activation_is_the_original_output_at_one_token(family: str) -> None:
    checkpoint = open_planted(family)
    group = address(checkpoint)
    arm = Arm(name="restored", acts=(Scale(addresses=(group,), factor=0.0), RestoreActivation(addresses=(group,))))
    seen = collect(checkpoint, [BASELINE, arm])

    original = wrap_model(copy.deepcopy(checkpoint.model))
    whole: list[torch.Tensor] = []

    def remember(_: object, __: object, output: torch.Tensor) -> None:
        whole.append(output.clone())

    down = original.layers[SUPER.layer].down_projection
    assert down is not None
    handle = down.module.register_forward_hook(remember)
    with torch.no_grad():
        for token_ids in batches():
            original.model(input_ids=token_ids, use_cache=False)
        handle.remove()
        down.weight[SUPER.row, SUPER.column] = 0.0

        def put_back(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
            stored = whole.pop(0)
            changed = output.clone()
            for sequence in range(len(output)):
                token = int(stored[sequence, :, SUPER.row].abs().argmax())
                assert token == 0
                changed[sequence, token, SUPER.row] = stored[sequence, token, SUPER.row]
            return changed

        down.module.register_forward_hook(put_back)
        for batch, token_ids in enumerate(batches()):
            expected = original.model(input_ids=token_ids, use_cache=False).logits
            # The engine adds what is missing to the changed output: one rounding more than remembering it.
            torch.testing.assert_close(seen[batch, 1], expected, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(seen[batch, 1], seen[batch, 0], rtol=1e-4, atol=1e-4)


def fingerprint(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, tensor in checkpoint.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    for module in checkpoint.model.modules():
        digest.update(str((len(module._forward_hooks), len(module._forward_pre_hooks))).encode())
        assert "forward" not in module.__dict__
    return digest.hexdigest()


def every_act(checkpoint: Checkpoint) -> list[Arm]:
    group = (address(checkpoint),)
    acts = (
        Scale(addresses=group, factor=3.0),
        SetTo(addresses=group, value=0.1),
        RestoreActivation(addresses=group),
        Quantize(recipe=parse_recipe("int3/row"), holdout=group),
    )
    return [BASELINE, Arm(name="everything", acts=acts)]


def test_the_model_is_bit_identical_afterwards() -> None:
    checkpoint = open_planted("llama")
    before = fingerprint(checkpoint)
    collect(checkpoint, every_act(checkpoint))
    assert fingerprint(checkpoint) == before


@pytest.mark.parametrize("depth", [0, 2, 5])
def test_the_model_is_bit_identical_after_an_exception_in_a_layer(depth: int) -> None:
    checkpoint = open_planted("llama")
    before = fingerprint(checkpoint)
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # once to learn shapes, then per batch of the baseline arm: inside the arm's acts
            raise RuntimeError("power cut")

    handle = checkpoint.layers[depth].module.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="power cut"):
        collect(checkpoint, every_act(checkpoint))
    handle.remove()
    assert fingerprint(checkpoint) == before


def test_the_model_is_bit_identical_after_an_exception_in_a_reader() -> None:
    checkpoint = open_planted("gpt2")
    before = fingerprint(checkpoint)

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        run_arms(checkpoint, every_act(checkpoint), batches(), fail)
    assert fingerprint(checkpoint) == before


def test_the_first_arm_must_be_the_baseline() -> None:
    checkpoint = open_planted("llama")
    with pytest.raises(ValueError, match="must be the baseline"):
        run_arms(checkpoint, every_act(checkpoint)[1:], batches(), lambda *_: None)


def test_peaks_are_the_largest_magnitudes_of_each_layers_output() -> None:
    checkpoint = open_planted("llama")
    with torch.no_grad():
        states = [
            checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[1:-1] for ids in batches()
        ]
    runs = run_arms(checkpoint, [BASELINE], batches(), lambda *_: None)
    for depth in range(len(checkpoint.layers) - 1):
        assert runs[0].peaks[depth] == max(float(one[depth].abs().max()) for one in states)


def test_an_arm_that_is_not_finite_has_no_peak() -> None:
    checkpoint = open_planted("llama")
    arm = Arm(name="huge", acts=(Scale(addresses=(address(checkpoint),), factor=3e38),))
    runs = run_arms(checkpoint, [BASELINE, arm], batches(), lambda *_: None)
    assert runs[1].peaks[SUPER.layer - 1] is not None
    assert runs[1].peaks[SUPER.layer] is None


def test_an_arm_skips_the_batches_that_are_not_wanted_and_the_baseline_skips_none() -> None:
    checkpoint = open_planted("llama")
    arm = Arm(name="zero", acts=(Scale(addresses=(address(checkpoint),), factor=0.0),))
    whole = collect(checkpoint, [BASELINE, arm])
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def read(batch: int, number: int, logits: torch.Tensor, _: torch.Tensor) -> None:
        seen[batch, number] = logits.clone()

    run_arms(
        checkpoint, [BASELINE, arm], batches(), read, included=lambda batch, number: (batch, number) == (2, 1)
    )
    assert set(seen) == {(0, 0), (1, 0), (2, 0), (2, 1)}
    assert torch.equal(seen[2, 1], whole[2, 1])
