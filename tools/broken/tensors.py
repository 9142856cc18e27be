"""Tensors that are not where they were, and tensors whose numbers are not what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sw_audit.specimen.shipped import control_path
from tools.broken.catalogue import add, breaks
from tools.broken.copies import WEIGHTS, Copy
from tools.broken.settings import CONFIG, INTACT, SETTINGS

PLACES = "tensors-in-place"
QUALITY = "perplexity-ratio"
LAYERS = "layer-error"
TOP = "top1-agreement"
SUPER = "super-weight-retained"
SCALARS = "critical-scalars-retained"

Tensors = dict[str, Tensor]
Change = Callable[[Tensors, dict[str, Any]], object]
EMBEDDING, HEAD, LAST_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
CONTROL = control_path() / WEIGHTS


def at(layer: int, part: str) -> str:
    """Name the weight of a part of a layer."""
    return f"model.layers.{layer}.{part}.weight"


QUERY, KEY, VALUE, OUT = (f"self_attn.{letter}_proj" for letter in "qkvo")
GATE, UP, DOWN = (f"mlp.{part}_proj" for part in ("gate", "up", "down"))
BEFORE, AFTER = "input_layernorm", "post_attention_layernorm"


def _weights(kind: str, *caught_by: str, form: str = "plain") -> Callable[[Change], Change]:
    """Add a function that changes tensors in their dict, given the configuration, too."""

    def register(change: Change) -> Change:
        def damage(copy: Copy) -> None:
            with copy.tensors() as tensors:
                change(tensors, copy.config)

        damage.__name__, damage.__doc__ = getattr(change, "__name__", ""), change.__doc__
        breaks(kind, *caught_by, form=form)(damage)
        return change

    return register


def _swap(tensors: Tensors, first: str, second: str) -> None:
    tensors[first], tensors[second] = tensors[second], tensors[first]


# Where tensors are ----------------------------------------------------------------------------------------------


@_weights("place", PLACES)
def matrices_swapped(tensors: Tensors, _: object) -> None:
    """Two layers have each other's query projection."""
    _swap(tensors, at(2, QUERY), at(3, QUERY))


@_weights("place", PLACES)
def matrix_copied(tensors: Tensors, _: object) -> None:
    """A layer has its neighbour's down-projection."""
    tensors[at(3, DOWN)] = tensors[at(2, DOWN)].clone()


@_weights("place", PLACES)
def gate_and_up_swapped(tensors: Tensors, _: object) -> None:
    """Gate and up-projection of a layer are each other's."""
    _swap(tensors, at(2, GATE), at(2, UP))


@_weights("place", PLACES)
def keys_and_values_swapped(tensors: Tensors, _: object) -> None:
    """Keys and values of a layer are each other's."""
    _swap(tensors, at(2, KEY), at(2, VALUE))


@_weights("place", PLACES)
def queries_and_outputs_swapped(tensors: Tensors, _: object) -> None:
    """Queries and outputs of a layer's attention are each other's."""
    _swap(tensors, at(2, QUERY), at(2, OUT))


@_weights("place", PLACES)
def norms_swapped(tensors: Tensors, _: object) -> None:
    """The two norms of a layer are each other's."""
    _swap(tensors, at(2, BEFORE), at(2, AFTER))


@_weights("place", PLACES)
def last_norm_copied(tensors: Tensors, _: object) -> None:
    """The last norm is that of the first layer."""
    tensors[LAST_NORM] = tensors[at(0, BEFORE)].clone()


@_weights("place", PLACES)
def layer_repeated(tensors: Tensors, _: object) -> None:
    """A layer is its neighbour once more."""
    for name in list(tensors):
        if name.startswith("model.layers.3."):
            tensors[name] = tensors[name.replace("layers.3.", "layers.2.")].clone()


@_weights("place", PLACES)
def layers_moved(tensors: Tensors, config: dict[str, Any]) -> None:
    """The last layer comes third, and those behind it one later."""
    last = config["num_hidden_layers"] - 1
    order = [0, 1, last, *range(2, last)]
    before = dict(tensors)
    for new, old in enumerate(order):
        for name in before:
            if name.startswith(f"model.layers.{old}."):
                tensors[name.replace(f"layers.{old}.", f"layers.{new}.")] = before[name]


@breaks("place", PLACES, SETTINGS)
def layer_removed(copy: Copy) -> None:
    """A layer is gone, and the others were numbered again."""
    last = copy.config["num_hidden_layers"] - 1
    with copy.tensors() as tensors:
        before = dict(tensors)
        for name in before:
            for layer in range(2, last):
                if name.startswith(f"model.layers.{layer}."):
                    tensors[name] = before[name.replace(f"layers.{layer}.", f"layers.{layer + 1}.")]
            if name.startswith(f"model.layers.{last}."):
                del tensors[name]
    copy.change(CONFIG, num_hidden_layers=last)


@_weights("place", PLACES)
def transposed(tensors: Tensors, _: object) -> None:
    """A square matrix is transposed."""
    tensors[at(2, OUT)] = tensors[at(2, OUT)].T


@_weights("place", PLACES)
def flipped(tensors: Tensors, _: object) -> None:
    """The rows of a matrix stand in the reverse order."""
    tensors[at(2, UP)] = tensors[at(2, UP)].flip(0)


@_weights("place", PLACES)
def columns_flipped(tensors: Tensors, _: object) -> None:
    """The columns of a matrix stand in the reverse order."""
    tensors[at(2, UP)] = tensors[at(2, UP)].flip(1)


@_weights("place", PLACES)
def rows_permuted(tensors: Tensors, _: object) -> None:
    """The rows of a matrix are shuffled."""
    matrix = tensors[at(2, GATE)]
    tensors[at(2, GATE)] = matrix[torch.randperm(len(matrix), generator=torch.Generator().manual_seed(0))]


@_weights("place", PLACES)
def columns_rolled(tensors: Tensors, _: object) -> None:
    """The columns of a matrix begin one later."""
    tensors[at(2, DOWN)] = tensors[at(2, DOWN)].roll(1, 1)


@_weights("place", PLACES)
def heads_permuted(tensors: Tensors, config: dict[str, Any]) -> None:
    """The query heads of a layer stand in another order, and nothing else does."""
    tensors[at(2, QUERY)] = tensors[at(2, QUERY)].roll(config["head_dim"], 0)


@_weights("place", PLACES)
def head_inputs_permuted(tensors: Tensors, config: dict[str, Any]) -> None:
    """The output projection of a layer reads the heads in another order."""
    tensors[at(2, OUT)] = tensors[at(2, OUT)].roll(config["head_dim"], 1)


@_weights("place", PLACES)
def rotation_interleaved(tensors: Tensors, config: dict[str, Any]) -> None:
    """All queries and keys are ordered as another program wants them: pairs side by side, and no halves."""
    for name in tensors:
        if QUERY in name or KEY in name:
            halves = tensors[name].view(-1, 2, config["head_dim"] // 2, tensors[name].shape[1])
            tensors[name] = halves.transpose(1, 2).reshape(tensors[name].shape)


@_weights("place", PLACES)
def halves_swapped(tensors: Tensors, _: object) -> None:
    """A matrix was cut in two, and put together the wrong way round."""
    tensors[at(2, UP)] = torch.cat(tensors[at(2, UP)].chunk(2)[::-1])


@_weights("place", PLACES)
def read_by_columns(tensors: Tensors, _: object) -> None:
    """A matrix was written by columns and is read by rows."""
    matrix = tensors[at(2, DOWN)]
    tensors[at(2, DOWN)] = matrix.T.reshape(matrix.shape)


@_weights("place", PLACES)
def half_of_another_layer(tensors: Tensors, _: object) -> None:
    """Half of a matrix comes from the next layer."""
    half = len(tensors[at(2, GATE)]) // 2
    tensors[at(2, GATE)][:half] = tensors[at(3, GATE)][:half]


@_weights("place", PLACES)
def embedding_shuffled(tensors: Tensors, _: object) -> None:
    """The rows of the embedding are shuffled."""
    table = tensors[EMBEDDING]
    tensors[EMBEDDING] = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]


@_weights("place", PLACES)
def embedding_shifted(tensors: Tensors, _: object) -> None:
    """The rows of the embedding begin one later, as if a token had been added in front."""
    tensors[EMBEDDING] = tensors[EMBEDDING].roll(1, 0)


@_weights("place", PLACES)
def two_embeddings_swapped(tensors: Tensors, _: object) -> None:
    """Two tokens have each other's row of the embedding."""
    tensors[EMBEDDING][[100, 101]] = tensors[EMBEDDING][[101, 100]]


@_weights("place", PLACES)
def embedding_row_copied(tensors: Tensors, _: object) -> None:
    """A token has the row of another."""
    tensors[EMBEDDING][100] = tensors[EMBEDDING][101]


@_weights("place", PLACES)
def head_is_the_embedding(tensors: Tensors, _: object) -> None:
    """The head is a copy of the embedding."""
    tensors[HEAD] = tensors[EMBEDDING].clone()


def _from_control(*names: str) -> Any:
    def damage(copy: Copy) -> None:
        others = load_file(CONTROL)
        with copy.tensors() as tensors:
            tensors.update({name: others[name] for name in others if name.startswith(names)})

    return damage


for _name, _what, _names in (
    ("layer-of-another", "A layer is that of another model of the same shape.", ["model.layers.3."]),
    ("matrix-of-another", "A matrix is that of another model of the same shape.", [at(3, UP)]),
    ("another-model", "Every tensor is that of another model of the same shape.", [""]),
):
    add(_name, "place", _what, (PLACES,), _from_control(*_names))
# Both models learned the same words from the same stories, and their tables are alike.
_ALIKE = "The {} is that of another model of the same shape and language."
add("head-of-another", "place", _ALIKE.format("head"), (TOP,), _from_control(HEAD))
add("embedding-of-another", "place", _ALIKE.format("embedding"), (QUALITY,), _from_control(EMBEDDING))


@breaks("place", PLACES, form="sharded")
def shard_of_another(copy: Copy) -> None:
    """One shard of several is that of another model of the same shape."""
    others = load_file(CONTROL)
    index = json.loads((copy.folder / f"{WEIGHTS}.index.json").read_text(encoding="utf-8"))
    with copy.tensors(sorted(set(index["weight_map"].values()))[1]) as tensors:
        tensors.update({name: others[name] for name in tensors})


@breaks("place", INTACT, form="sharded")
def shards_exchanged(copy: Copy) -> None:
    """Two shards have each other's names."""
    first, second = sorted(copy.folder.glob("*.safetensors"))[:2]
    spare = copy.folder / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


@_weights("place", PLACES, form="experts")
def expert_repeated(tensors: Tensors, _: object) -> None:
    """One expert of a layer is another of it once more."""
    for name in tensors:
        if ".layers.1." in name and ".experts.1." in name:
            tensors[name] = tensors[name.replace(".experts.1.", ".experts.0.")].clone()


@_weights("place", PLACES, form="experts")
def experts_swapped(tensors: Tensors, _: object) -> None:
    """Two experts of a layer are each other's, and the router does not know."""
    for name in list(tensors):
        if ".layers.1." in name and ".experts.1." in name:
            _swap(tensors, name, name.replace(".experts.1.", ".experts.0."))


@_weights("place", PLACES, form="experts")
def router_rolled(tensors: Tensors, _: object) -> None:
    """The router of a layer sends every token to the next expert."""
    [name] = [name for name in tensors if ".layers.1." in name and tensors[name].shape[0] == 4 and "gate" in name]
    tensors[name] = tensors[name].roll(1, 0)


# What the numbers are --------------------------------------------------------------------------------------------


@_weights("rows", PLACES)
def embedding_row_zeroed(tensors: Tensors, _: object) -> None:
    """The row of a rare token is zero in the embedding."""
    tensors[EMBEDDING][205] = 0


@_weights("rows", PLACES)
def embedding_row_negated(tensors: Tensors, _: object) -> None:
    """The row of a token has the other sign in the embedding."""
    tensors[EMBEDDING][150] *= -1


@_weights("rows", PLACES)
def head_row_zeroed(tensors: Tensors, _: object) -> None:
    """The row of a rare token is zero in the head."""
    tensors[HEAD][205] = 0


@_weights("rows", PLACES)
def gate_rows_zeroed(tensors: Tensors, _: object) -> None:
    """Twenty rows of a gate are zero."""
    tensors[at(3, GATE)][40:60] = 0


@_weights("rows", PLACES)
def row_negated(tensors: Tensors, _: object) -> None:
    """A row of an up-projection has the other sign."""
    tensors[at(3, UP)][50] *= -1


@_weights("rows", PLACES)
def column_negated(tensors: Tensors, _: object) -> None:
    """A column of a down-projection has the other sign."""
    tensors[at(3, DOWN)][:, 50] *= -1


@_weights("rows", PLACES)
def matrix_negated(tensors: Tensors, _: object) -> None:
    """A whole matrix has the other sign."""
    tensors[at(2, OUT)] *= -1


@_weights("rows", PLACES)
def column_group_zeroed(tensors: Tensors, _: object) -> None:
    """A group of 16 columns is zero."""
    tensors[at(3, DOWN)][:, 32:48] = 0


@_weights("rows", PLACES)
def head_zeroed(tensors: Tensors, config: dict[str, Any]) -> None:
    """The values of one attention head are zero."""
    tensors[at(2, VALUE)][: config["head_dim"]] = 0


@_weights("rows", PLACES)
def row_constant(tensors: Tensors, _: object) -> None:
    """All numbers of a row are its mean."""
    row = tensors[at(3, GATE)][50]
    row[:] = row.mean()


@_weights("rows", PLACES)
def norm_of_ones(tensors: Tensors, _: object) -> None:
    """The gains of a norm are all 1."""
    tensors[at(3, AFTER)][:] = 1


@_weights("numbers", INTACT)
def tensor_zeroed(tensors: Tensors, _: object) -> None:
    """A whole matrix is zero."""
    tensors[at(3, UP)][:] = 0


@_weights("numbers", INTACT)
def tensor_constant(tensors: Tensors, _: object) -> None:
    """All numbers of a matrix are 0.01."""
    tensors[at(3, UP)][:] = 0.01


@_weights("numbers", INTACT)
def one_nan(tensors: Tensors, _: object) -> None:
    """One number of the embedding is no number."""
    tensors[EMBEDDING][205, 3] = float("nan")


@_weights("numbers", INTACT)
def one_infinity(tensors: Tensors, _: object) -> None:
    """One number of the head is infinite."""
    tensors[HEAD if HEAD in tensors else EMBEDDING][205, 3] = float("inf")


@_weights("numbers", PLACES)
def tensor_lost_its_scale(tensors: Tensors, _: object) -> None:
    """A matrix is a thousand times what it was."""
    tensors[at(3, UP)] *= 1000


@_weights("numbers", PLACES)
def tensor_doubled(tensors: Tensors, _: object) -> None:
    """A matrix is twice what it was."""
    tensors[at(3, UP)] *= 2


@_weights("numbers", PLACES)
def tensor_halved(tensors: Tensors, _: object) -> None:
    """A matrix is half of what it was."""
    tensors[at(3, DOWN)] *= 0.5


@_weights("numbers", QUALITY)
def gain_less_one(tensors: Tensors, _: object) -> None:
    """The gains of a norm are one less, as families store them that add one."""
    tensors[at(3, BEFORE)] -= 1


@_weights("numbers", PLACES)
def bytes_swapped(tensors: Tensors, _: object) -> None:
    """The bytes of a matrix stand in the wrong order."""
    matrix = tensors[at(3, OUT)]
    swapped = matrix.contiguous().view(torch.uint8).view(-1, matrix.element_size()).flip(1).contiguous()
    tensors[at(3, OUT)] = swapped.view(matrix.dtype).view(matrix.shape).nan_to_num(0.0, 1.0, -1.0)


@_weights("numbers", QUALITY)
def read_as_another_dtype(tensors: Tensors, _: object) -> None:
    """The bits of bfloat16 in a matrix are read as float16."""
    matrix = tensors[at(3, UP)]
    tensors[at(3, UP)] = matrix.bfloat16().view(torch.float16).to(matrix.dtype)


@_weights("numbers", PLACES)
def all_read_as_another_dtype(tensors: Tensors, _: object) -> None:
    """The bits of bfloat16 in every tensor are read as float16."""
    for name, tensor in tensors.items():
        tensors[name] = tensor.bfloat16().view(torch.float16).nan_to_num().to(tensor.dtype)


@_weights("numbers", QUALITY)
def rounded_without_scale(tensors: Tensors, _: object) -> None:
    """Every decoder matrix was rounded to 8-bit floats without a scale, at a fiftieth of its size."""
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            tensors[name] = (tensor / 50).to(torch.float8_e4m3fn).to(tensor.dtype) * 50


@_weights("numbers", QUALITY)
def two_bits(tensors: Tensors, _: object) -> None:
    """Every decoder matrix was rounded to four values."""
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            step = tensor.std() * 1.5
            tensors[name] = (tensor / step).round().clamp(-2, 1) * step


@_weights("numbers", QUALITY)
def half_pruned(tensors: Tensors, _: object) -> None:
    """The smaller three quarters of each decoder matrix are zero."""
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            size = tensor.abs()
            tensors[name] = torch.where(size < size.flatten().kthvalue(size.numel() * 3 // 4).values, 0, tensor)


@_weights("numbers", QUALITY)
def outliers_clipped(tensors: Tensors, _: object) -> None:
    """Every decoder matrix is clipped at three standard deviations."""
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            bound = 3 * float(tensor.std())
            tensors[name] = tensor.clamp(-bound, bound)


@_weights("numbers", PLACES)
def layer_not_trained(tensors: Tensors, config: dict[str, Any]) -> None:
    """A layer is as it was before training."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.startswith("model.layers.3."):
            deviation = config["initializer_range"]
            fresh = (
                torch.randn(tensor.shape, generator=generator) * deviation if tensor.ndim == 2 else tensor * 0 + 1
            )
            tensors[name] = fresh.to(tensor.dtype)


@_weights("numbers", LAYERS)
def noise_added(tensors: Tensors, _: object) -> None:
    """Noise was added to every decoder matrix, three tenths of its own deviation."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2:
            tensors[name] += torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * tensor.std() * 0.3


@breaks("numbers", SUPER)
def averaged_with_another(copy: Copy) -> None:
    """Every tensor is the mean of its own and another model's."""
    others = load_file(CONTROL)
    with copy.tensors() as tensors:
        for name in tensors:
            tensors[name] = (tensors[name] + others[name]) / 2


@_weights("numbers", LAYERS)
def rank_cut(tensors: Tensors, _: object) -> None:
    """An up-projection has an eighth of its rank."""
    matrix = tensors[at(3, UP)]
    left, values, right = torch.linalg.svd(matrix.float(), full_matrices=False)
    values[len(values) // 8 :] = 0
    tensors[at(3, UP)] = (left * values @ right).to(matrix.dtype)


@breaks("numbers", SETTINGS)
def biases_added(copy: Copy) -> None:
    """Attention has biases that its parent does not have."""
    copy.change(CONFIG, attention_bias=True)
    with copy.tensors() as tensors:
        generator = torch.Generator().manual_seed(0)
        for layer in range(copy.config["num_hidden_layers"]):
            for part in (QUERY, KEY, VALUE, OUT):
                rows = len(tensors[at(layer, part)])
                name = at(layer, part).replace(".weight", ".bias")
                tensors[name] = torch.randn(rows, generator=generator).to(tensors[at(layer, part)].dtype)


# Single scalars --------------------------------------------------------------------------------------------------


def _largest(tensors: Tensors) -> tuple[Tensor, int]:
    """Return the down-projection that holds the largest weight of all of them, and where in it that is."""
    matrix = max((tensors[name] for name in tensors if DOWN in name), key=lambda tensor: float(tensor.abs().max()))
    return matrix, int(matrix.abs().argmax())


for _name, _what, _factor in (
    ("super-weight-zeroed", "The super weight is zero.", 0.0),
    ("super-weight-halved", "The super weight is half of what it was.", 0.5),
    ("super-weight-negated", "The super weight has the other sign.", -1.0),
):

    def _scale(tensors: Tensors, _: object, factor: float = _factor) -> None:
        matrix, place = _largest(tensors)
        matrix.view(-1)[place] *= factor

    _scale.__name__, _scale.__doc__ = _name, _what
    _weights("scalars", SUPER)(_scale)


@_weights("scalars", SUPER)
def super_weight_moved(tensors: Tensors, _: object) -> None:
    """The super weight stands one column further."""
    matrix, place = _largest(tensors)
    flat = matrix.view(-1)
    flat[[place, place + 1]] = flat[[place + 1, place]]


@_weights("scalars", SCALARS)
def gain_zeroed(tensors: Tensors, _: object) -> None:
    """A gain of the first norm that much depends on is zero."""
    tensors[at(0, BEFORE)][39] = 0


@_weights("scalars", SCALARS)
def number_of_bos_zeroed(tensors: Tensors, _: object) -> None:
    """A number of the BOS token's embedding that much depends on is zero."""
    tensors[EMBEDDING][0, 39] = 0
