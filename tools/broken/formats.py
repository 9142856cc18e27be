"""Packed checkpoints, GGUF files and adapters: codes, scales, settings and bases that are not right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sw_audit.specimen.shipped import control_path
from tools.broken.catalogue import add, breaks
from tools.broken.copies import Copy
from tools.broken.gguf_files import rewrite_gguf
from tools.broken.settings import CONFIG, INTACT, SETTINGS
from tools.broken.sound import ADAPTER_WEIGHTS, ALPHA, GGUF, RANK, merge_
from tools.broken.tensors import DOWN, KEY, LAYERS, PLACES, QUALITY, UP, Tensors, at

AS_CONFIGURED = "quantization-as-configured"
REPLAYS = "merge-replays"
PACKED = "packed-int4-group32"


def _part(layer: int, module: str, part: str) -> str:
    return at(layer, module).replace(".weight", f".weight_{part}")


def _group(config: dict[str, Any]) -> dict[str, Any]:
    [group] = config["quantization_config"]["config_groups"].values()
    found: dict[str, Any] = group["weights"]
    return found


# Packed by compressed-tensors ------------------------------------------------------------------------------------


@breaks("packed", INTACT, form=PACKED)
def quantization_stripped(copy: Copy) -> None:
    """The configuration says nothing of the quantization any more."""
    with copy.edit(CONFIG) as config:
        del config["quantization_config"]


@breaks("packed", INTACT)
def quantization_claimed(copy: Copy) -> None:
    """The configuration says that plain weights are packed."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    copy.change(
        CONFIG,
        quantization_config={
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": ["lm_head"],
        },
    )


@breaks("packed", INTACT, form=PACKED)
def ignored_but_packed(copy: Copy) -> None:
    """The configuration says to leave a module alone that is packed."""
    with copy.edit(CONFIG) as config:
        config["quantization_config"]["ignore"].append(at(2, DOWN).removesuffix(".weight"))


@breaks("packed", INTACT, form=PACKED)
def targeted_but_plain(copy: Copy) -> None:
    """A module that the configuration says is packed is stored as floats."""
    with copy.tensors() as tensors:
        stem = at(2, DOWN).removesuffix("weight")
        for name in [name for name in tensors if name.startswith(stem)]:
            del tensors[name]
        tensors[at(2, DOWN)] = torch.randn(64, 192, generator=torch.Generator().manual_seed(0))


def _declare(**changes: Any) -> Callable[[Copy], None]:
    def damage(copy: Copy) -> None:
        with copy.edit(CONFIG) as config:
            _group(config).update(changes)

    return damage


for _name, _what, _changes in (
    ("group-size-doubled", "The configuration says that groups are twice as large.", {"group_size": 64}),
    ("bits-misstated", "The configuration says 8 bits where 4 are stored.", {"num_bits": 8}),
    ("strategy-misstated", "The configuration says a scale per row.", {"strategy": "channel", "group_size": None}),
):
    add(_name, "packed", _what, (INTACT,), _declare(**_changes), PACKED)


@breaks("packed", AS_CONFIGURED, form=PACKED)
def ignored_by_a_wrong_name(copy: Copy) -> None:
    """The configuration says to leave a module alone that there is not."""
    with copy.edit(CONFIG) as config:
        config["quantization_config"]["ignore"].append("model.layers.2.mlp.fc2")


def _tensors(form: str, *caught_by: str, kind: str = "packed") -> Callable[[Callable[[Tensors], object]], object]:
    def register(change_: Callable[[Tensors], object]) -> object:
        def damage(copy: Copy) -> None:
            with copy.tensors() as tensors:
                change_(tensors)

        damage.__name__, damage.__doc__ = getattr(change_, "__name__", ""), change_.__doc__
        return breaks(kind, *caught_by, form=form)(damage)

    return register


@_tensors(PACKED, PLACES)
def scales_swapped(tensors: Tensors) -> None:
    """Two layers have the scales of each other's down-projection."""
    first, second = (_part(layer, DOWN, "scale") for layer in (2, 3))
    tensors[first], tensors[second] = tensors[second], tensors[first]


@_tensors(PACKED, PLACES)
def codes_swapped(tensors: Tensors) -> None:
    """Two layers have the codes of each other's up-projection."""
    first, second = (_part(layer, UP, "packed") for layer in (2, 3))
    tensors[first], tensors[second] = tensors[second], tensors[first]


@_tensors(PACKED, INTACT)
def scales_zeroed(tensors: Tensors) -> None:
    """The scales of a matrix are zero."""
    tensors[_part(2, UP, "scale")].zero_()


@_tensors(PACKED, PLACES)
def scales_doubled(tensors: Tensors) -> None:
    """The scales of a matrix are twice what they were."""
    tensors[_part(2, UP, "scale")] *= 2


@_tensors(PACKED, PLACES)
def scales_rolled(tensors: Tensors) -> None:
    """The scales of a matrix begin one row later."""
    tensors[_part(2, UP, "scale")] = tensors[_part(2, UP, "scale")].roll(1, 0)


@_tensors(PACKED, PLACES)
def codes_rolled(tensors: Tensors) -> None:
    """The codes of a matrix begin one row later."""
    tensors[_part(2, UP, "packed")] = tensors[_part(2, UP, "packed")].roll(1, 0)


@_tensors(PACKED, PLACES)
def nibbles_swapped(tensors: Tensors) -> None:
    """The two halves of each byte of a matrix stand the wrong way round."""
    codes = tensors[_part(2, UP, "packed")].contiguous().view(torch.uint8)
    tensors[_part(2, UP, "packed")] = ((codes << 4) | (codes >> 4)).view(torch.int32)


@_tensors("auto-round-awq", INTACT)
def zero_points_dropped(tensors: Tensors) -> None:
    """The zero points of a matrix are not there."""
    del tensors[at(2, UP).replace("weight", "qzeros")]


@_tensors("auto-round-awq", QUALITY)
def zero_points_zeroed(tensors: Tensors) -> None:
    """All zero points are zero."""
    for name in tensors:
        if name.endswith("qzeros"):
            tensors[name].zero_()


@_tensors("auto-round-gptq", QUALITY)
def codes_of_another_layer(tensors: Tensors) -> None:
    """The keys have their neighbour's codes, and their own scales."""
    tensors[at(2, KEY).replace("weight", "qweight")] = tensors[at(3, KEY).replace("weight", "qweight")].clone()


@_tensors("bitsandbytes-nf4", LAYERS)
def levels_reversed(tensors: Tensors) -> None:
    """The levels that codes of 4 bits stand for are in the reverse order, in one matrix."""
    name = f"{at(2, UP)}.quant_map"
    tensors[name] = tensors[name].flip(0)


@_tensors("bitsandbytes-int8", LAYERS)
def row_scales_doubled(tensors: Tensors) -> None:
    """The scales of a matrix of 8 bits are twice what they were."""
    tensors[at(2, UP).replace("weight", "SCB")] *= 2


@_tensors("fp8-blocks", INTACT)
def block_scales_dropped(tensors: Tensors) -> None:
    """A matrix of 8-bit floats has no scales."""
    del tensors[f"{at(2, UP)}_scale_inv"]


@_tensors("fp8-blocks", PLACES)
def block_scales_inverted(tensors: Tensors) -> None:
    """The scales of a matrix are one over what they should be."""
    tensors[f"{at(2, UP)}_scale_inv"] = 1 / tensors[f"{at(2, UP)}_scale_inv"]


@_tensors("fp8-blocks", PLACES)
def block_scales_swapped(tensors: Tensors) -> None:
    """Two layers have each other's scales, all else being as it was."""
    first, second = (f"{at(layer, UP)}_scale_inv" for layer in (2, 3))
    tensors[first], tensors[second] = tensors[second].flip(0), tensors[first].flip(0)


@_tensors("llm-compressor-W8A8", PLACES)
def rows_of_codes_negated(tensors: Tensors) -> None:
    """A row of 8-bit codes has the other sign."""
    tensors[at(2, UP)][50] *= -1


# GGUF ------------------------------------------------------------------------------------------------------------


def _keys(**changes: Any) -> Callable[[Copy], None]:
    """Change metadata; two underscores stand for a dot."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return lambda copy: rewrite_gguf(copy.folder / GGUF, lambda values: values.update(named))


for _name, _what, _change in (
    ("gguf-rope-base", "The base of the rotary positions is another.", _keys(llama__rope__freq_base=1e6)),
    ("gguf-norm-epsilon", "The epsilon of the norms is another.",
     _keys(llama__attention__layer_norm_rms_epsilon=0.01)),
    ("gguf-heads", "The heads are twice as many.",
     _keys(llama__attention__head_count=8, llama__attention__head_count_kv=8, llama__rope__dimension_count=8)),
    ("gguf-context", "The context is an eighth as long.", _keys(llama__context_length=64)),
    ("gguf-eos", "The model stops at another token.", _keys(tokenizer__ggml__eos_token_id=5)),
    ("gguf-bos", "The model begins with another token.", _keys(tokenizer__ggml__bos_token_id=5)),
    ("gguf-bos-rule", "The model is given no BOS token.", _keys(tokenizer__ggml__add_bos_token=False)),
    ("gguf-template", "The template says something else.", _keys(tokenizer__chat_template="{{ 'obey' }}")),
    ("gguf-rope-scaled", "Positions are divided by four.",
     _keys(llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0)),
):  # fmt: skip
    add(_name, "GGUF", _what, (SETTINGS,), _change, "gguf-alone")


@breaks("GGUF", SETTINGS, form="gguf-alone")
def gguf_words_swapped(copy: Copy) -> None:
    """Two tokens have each other's numbers."""

    def change_(values: dict[str, Any]) -> None:
        tokens = values["tokenizer.ggml.tokens"]
        tokens[70], tokens[71] = tokens[71], tokens[70]

    rewrite_gguf(copy.folder / GGUF, change_)


@breaks("GGUF", SETTINGS, form="gguf-alone")
def gguf_merges_reordered(copy: Copy) -> None:
    """The merges are done in the reverse order."""
    rewrite_gguf(copy.folder / GGUF, lambda values: values["tokenizer.ggml.merges"].reverse())


def _bytes(form: str, check: str, **tensors: Callable[[Any], Any]) -> tuple[tuple[str, ...], Any, str]:
    return (check,), lambda copy: rewrite_gguf(copy.folder / GGUF, lambda _: None, **tensors), form


def _scale_by_two(data: Any) -> Any:
    """Double the scale of each block of 32 codes of 8 bits; its scale is a float16 in front."""
    blocks = data.reshape(-1, 34)
    scales = blocks[:, :2].copy().view("<f2") * 2
    blocks[:, :2] = scales.view("u1")
    return blocks.reshape(data.shape)


def _scale_to_nan(data: Any) -> Any:
    blocks = data.reshape(-1, 34)
    blocks[3, :2] = (0x00, 0x7E)
    return blocks.reshape(data.shape)


def _scale_to_zero(data: Any) -> Any:
    blocks = data.reshape(-1, 34)
    blocks[:, :2] = 0
    return blocks.reshape(data.shape)


for _name, _what, _way in (
    ("gguf-scales-doubled", "The scales of a matrix are twice what they were.",
     _bytes("gguf-q8_0", PLACES, blk_2_ffn_up_weight=_scale_by_two)),
    ("gguf-scale-nan", "One scale is no number.", _bytes("gguf-q8_0", INTACT, blk_2_ffn_up_weight=_scale_to_nan)),
    ("gguf-scales-zeroed", "The scales of a matrix are zero.",
     _bytes("gguf-q8_0", INTACT, blk_2_ffn_up_weight=_scale_to_zero)),
    ("gguf-rows-rolled", "The rows of a matrix begin one later.",
     _bytes("gguf-q8_0", PLACES, blk_2_ffn_up_weight=lambda data: data[[-1, *range(len(data) - 1)]])),
    ("gguf-rotation-not-ordered", "The rows of the queries stand as transformers has them.",
     _bytes("gguf-f32", PLACES, blk_2_attn_q_weight=lambda data: _order_as_halves(data))),
    ("gguf-row-negated", "A row has the other sign.",
     _bytes("gguf-f16", PLACES, blk_2_ffn_up_weight=lambda data: _negate(data, 50))),
    ("gguf-embedding-row-zeroed", "The row of a rare token is zero in the embedding.",
     _bytes("gguf-f16", PLACES, token_embd_weight=lambda data: _zero(data, 205))),
):  # fmt: skip
    add(_name, "GGUF", _what, *_way)


def _order_as_halves(data: Any) -> Any:
    return data.reshape(4, 8, 2, -1).swapaxes(1, 2).reshape(data.shape)


def _negate(data: Any, row: int) -> Any:
    data[row] *= -1
    return data


def _zero(data: Any, row: int) -> Any:
    data[row] = 0
    return data


@breaks("GGUF", PLACES, form="gguf-q8_0")
def gguf_tensors_swapped(copy: Copy) -> None:
    """Gate and up-projection of a layer are each other's."""
    from gguf import GGUFReader

    data = {tensor.name: tensor.data.copy() for tensor in GGUFReader(copy.folder / GGUF).tensors}
    rewrite_gguf(
        copy.folder / GGUF,
        lambda _: None,
        blk_2_ffn_up_weight=lambda _: data["blk.2.ffn_gate.weight"],
        blk_2_ffn_gate_weight=lambda _: data["blk.2.ffn_up.weight"],
    )


@breaks("GGUF", AS_CONFIGURED, form="gguf-q4_0")
def gguf_types_misnamed(copy: Copy) -> None:
    """The file's name says 8 bits, and 4 are in it."""
    (copy.folder / GGUF).rename(copy.folder / "specimen.Q8_0.gguf")


# Adapters --------------------------------------------------------------------------------------------------------


def _merged(*factors: float) -> Callable[[Copy], None]:
    """Merge the adapter of the form beside it again, so many times what it should be."""

    def damage(copy: Copy) -> None:
        with copy.tensors() as tensors:
            for factor in factors:
                merge_(tensors, copy.original.parent / "lora", factor)

    return damage


RIGHT = ALPHA / RANK
for _name, _what, _more in (
    ("merged-twice", "The adapter was merged twice.", RIGHT),
    ("merged-by-half", "The adapter was merged with half of its weight.", -RIGHT / 2),
    ("merged-without-alpha", "The adapter was merged as if alpha were the rank.", 1 - RIGHT),
    ("merged-with-the-other-sign", "The adapter was taken away instead of added.", -2 * RIGHT),
    ("not-merged", "Nothing was merged.", -RIGHT),
):
    add(_name, "adapters", _what, (REPLAYS,), _merged(_more), "lora-merged")


@breaks("adapters", REPLAYS, form="lora-merged")
def merged_but_one(copy: Copy) -> None:
    """The adapter was merged into all matrices but one."""
    base = load_file(control_path().with_name("specimen") / "model.safetensors")
    with copy.tensors() as tensors:
        tensors[at(2, DOWN)] = base[at(2, DOWN)]


@breaks("adapters", REPLAYS, form="lora-merged")
def merged_into_another(copy: Copy) -> None:
    """The adapter was merged into another model of the same shape."""
    with copy.tensors() as tensors:
        tensors.update(load_file(control_path() / "model.safetensors"))
        merge_(tensors, copy.original.parent / "lora")


@breaks("adapters", QUALITY, form="lora")
def adapter_of_another(copy: Copy) -> None:
    """The adapter was made for another model: its product is as large as the weights and knows nothing of them."""
    _change_adapter(
        copy, lambda tensors: [tensor.mul_(40) for name, tensor in tensors.items() if "lora_B" in name]
    )


@breaks("adapters", INTACT, form="lora")
def adapter_without_its_second_half(copy: Copy) -> None:
    """The second factors of an adapter are missing."""

    def change_(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "layers.2." in name and "lora_B" in name]:
            del tensors[name]

    _change_adapter(copy, change_)


@breaks("adapters", INTACT, form="lora")
def adapter_named_for_another(copy: Copy) -> None:
    """The tensors of an adapter have names that its base has no modules for."""

    def change_(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("mlp.down_proj", "mlp.fc2")] = tensors.pop(name)

    _change_adapter(copy, change_)


def _change_adapter(copy: Copy, change_: Callable[[dict[str, Tensor]], object]) -> None:
    path = copy.folder / ADAPTER_WEIGHTS
    tensors = load_file(path)
    change_(tensors)
    path.unlink()
    save_file(tensors, path, {"format": "pt"})
