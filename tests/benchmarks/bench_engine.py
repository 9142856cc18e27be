"""What a token costs in an arm, against the same token in a plain pass of transformers (`make bench`).

The model is SmolLM2-135M-Instruct where it is at hand (the file that `SW_AUDIT_BENCH_MODEL` names, or that of
`make real` in `.cache/real`), else a generated Llama of its shape.
"""

from __future__ import annotations

import torch
from support.benchmarks import find_published, run_plainly, take_seconds
from support.planted import wrap_model
from transformers import LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.arms import measure_arms
from sw_audit.policy.policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import AddressGroup, ScalarAddress
from sw_audit.record.arm import BASELINE, Arm, Custom, Quantize, Scale, SetScalars

ARMS = 12
ROUNDING = "rounding"
NORM = "last norm"
CASES = {(1, 64): (0, 28, NORM), (4, 64): (0, 2, 11, 28, NORM, ROUNDING), (16, 64): (0, 28), (4, 256): (0, 28)}
"""By how many windows and tokens in each: where arms change a scalar, or that they round."""
STOP_WORDS = torch.arange(100, 250)
RECIPES = ("int4/row", "int4/512x512", "nf4/group64")


def open_model() -> tuple[str, Checkpoint]:
    if (named := find_published()) is not None:
        return named.name, open_checkpoint(ModelPolicy(source=str(named)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return "a generated Llama", wrap_model(LlamaForCausalLM(config))


def scale_in(checkpoint: Checkpoint, layer: int) -> list[Arm]:
    down = checkpoint.layers[layer].down_projection
    assert down is not None
    groups = [AddressGroup(parameter=down.parameter, rows=(7,), columns=(number,)) for number in range(ARMS)]
    return [
        Arm(purpose=Custom(label=f"scale {number}"), acts=(Scale(addresses=(group,), factor=0.5),))
        for number, group in enumerate(groups)
    ]


def set_in_last_norm(checkpoint: Checkpoint) -> list[Arm]:
    outside = [name for name, _ in checkpoint.model.get_decoder().named_parameters() if "layers" not in name]
    name = f"{checkpoint.model.base_model_prefix}.{outside[-1]}"
    acts = [
        SetScalars(scalars=(ScalarAddress(parameter=name, index=(number,)),), values=(0.0,))
        for number in range(ARMS)
    ]
    return [Arm(purpose=Custom(label=f"set {number}"), acts=(act,)) for number, act in enumerate(acts)]


def round_all(checkpoint: Checkpoint) -> list[Arm]:
    """Every recipe plainly and with one scalar held out, as an audit has it."""
    down = checkpoint.layers[2].down_projection
    assert down is not None
    group = AddressGroup(parameter=down.parameter, rows=(7,), columns=(9,))
    return [
        Arm(
            purpose=Custom(label=f"{name} {held}"),
            acts=(Quantize(recipe=parse_recipe(name), holdout=(group,) if held else ()),),
        )
        for name in RECIPES
        for held in (False, True)
    ]


def draw_windows(count: int, length: int, vocabulary: int) -> Windows:
    token_ids = torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
    return Windows(token_ids, torch.ones(count, dtype=torch.long))


def test_arm_tokens_a_second_over_tokens_a_second_of_plain_passes() -> None:
    name, checkpoint = open_model()
    print(f"\n{name}, {torch.get_num_threads()} threads; {ARMS} arms that change a scalar, and the baseline")
    print("| windows | arms in | plain tokens/s | arm-tokens/s | ratio | of processor time | target |")
    print("|---|---|---|---|---|---|---|")
    for (count, length), places in CASES.items():
        windows = draw_windows(count, length, checkpoint.vocabulary)
        run_plainly(checkpoint, windows)
        for place in places:
            made = {ROUNDING: round_all, NORM: set_in_last_norm}
            arms = made[place](checkpoint) if isinstance(place, str) else scale_in(checkpoint, place)
            clock, processor = compare(checkpoint, [BASELINE, *arms], windows)
            plain, ours = (windows.token_ids.numel() / seconds for seconds in clock)
            ratio, target = ours / plain, "" if place == ROUNDING else "0.95"
            where = place if isinstance(place, str) else f"layer {place}"
            figures = f"{plain:.0f} | {ours:.0f} | {ratio:.2f} | {processor[0] / processor[1]:.2f}"
            print(f"| {count} x {length} | {where} | {figures} | {target} |", flush=True)


def compare(
    checkpoint: Checkpoint, arms: list[Arm], windows: Windows
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return seconds that a plain pass takes, and each arm: of the clock, and of the processor."""
    # The plain pass goes before and after: others may use the machine, too.
    before = take_seconds(lambda: run_plainly(checkpoint, windows))
    taken = take_seconds(lambda: measure_arms(checkpoint, arms, windows, protocol="bench", stop_words=STOP_WORDS))
    after = take_seconds(lambda: run_plainly(checkpoint, windows))
    clock, processor = (
        ((first + last) / 2, ours / len(arms)) for first, last, ours in zip(before, after, taken, strict=True)
    )
    return clock, processor
