"""Sound checkpoints of the formats that people ship, all made of one model; none may fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.export.checkpoint import ExportOrder, export_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.checkpoint import Form as Written
from sw_audit.specimen.shipped import corpus_path, specimen_path
from tests.support.quantizing import pack_fp8, pack_gguf, prune, prune_two_in_four
from tools.broken.copies import WEIGHTS, Copy
from tools.broken.gguf_files import rewrite_gguf

STORED = Path(__file__).parents[2] / "tests" / "formats" / "data"
SPECIMEN = specimen_path()


@dataclass(frozen=True)
class Form:
    """One way to write a model soundly.

    Attributes:
        name: What it is called.
        kind: What it is of.
        write: Writes it into a folder that is not there yet; the workshop has other forms.
        packages: What has to be installed to make and to read it.
        parent: Name of the form that is its parent; `None` is the model itself.
        adapter: Name of the form that was merged into the parent to make it.
        file: Name of the file in the folder that is the model; `None` is the folder.
        may_differ: Settings that the policy lets differ.
    """

    name: str
    kind: str
    write: Callable[[Path, Workshop], object]
    packages: tuple[str, ...] = ()
    parent: str | None = None
    adapter: str | None = None
    file: str | None = None
    may_differ: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


class Workshop:
    """Where forms of a model are written, each once.

    Args:
        place: A folder that is there.
        model: The parent of every form that has no other.
        plain: A folder in the layout of transformers that is soundly made of it; the model itself by default.
        instead: Names of forms that others stand in for.
    """

    def __init__(
        self,
        place: Path,
        model: Path = SPECIMEN,
        plain: Path | None = None,
        instead: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.place, self.model, self.plain, self.instead = place, model, plain or model, instead

    def find(self, name: str) -> Form:
        """Return the form of that name, or the one that stands in for it."""
        return FORMS[self.instead.get(name, name)]

    def make(self, name: str) -> Path:
        """Return the folder of a form, written if it is not there yet."""
        form = self.find(name)
        folder = self.place / "forms" / form.name
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            with quiet_libraries():
                form.write(folder, self)
        return folder

    def describe(self, form: Form, folder: Path) -> ModelPolicy:
        """Say of a folder of a form, damaged or not, what an audit has to know: where it is, and its parent."""
        parent = self.model if form.parent is None else self._locate(self.find(form.parent))
        return ModelPolicy(
            source=str(folder / form.file if form.file else folder),
            id="model",
            parent=str(parent),
            base=str(self.model),
            adapter=None if form.adapter is None else str(self.make(form.adapter)),
        )

    def _locate(self, form: Form) -> Path:
        folder = self.make(form.name)
        return folder / form.file if form.file else folder


def _copy(change: Callable[[Copy], object] = lambda _: None) -> Callable[[Path, Workshop], object]:
    return lambda folder, workshop: change(Copy(workshop.plain, folder))


def _cast(dtype: torch.dtype) -> Callable[[Path, Workshop], object]:
    """Cast the tensors and leave the configuration, as scripts do."""

    def change(copy: Copy) -> None:
        with copy.tensors() as tensors:
            tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    return _copy(change)


def _save(dtype: str = "auto", change_: Callable[[Any, Any], Any] = lambda *_: None, **how: Any) -> Any:
    """Let transformers save model and tokenizer again."""

    def write(folder: Path, workshop: Workshop) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(workshop.plain, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(workshop.plain)
        change_(model, tokenizer)
        model.save_pretrained(folder, **how)
        tokenizer.save_pretrained(folder)

    return write


def _round(recipe: str, form: Written = "dense", dtype: str = "auto") -> Callable[[Path, Workshop], object]:
    def write(folder: Path, workshop: Workshop) -> None:
        policy = ModelPolicy.model_validate({"source": str(workshop.plain), "dtype": dtype})
        checkpoint = open_checkpoint(policy)
        order = ExportOrder(parse_recipe(recipe), form=form, because="its gate is to see what rounding does")
        export_checkpoint(checkpoint, order, folder, CheckpointFolder.require(policy))

    return write


def _tune(steps: int, *, only: str = "", decay: float = 0.0) -> Callable[[Any, Any], None]:
    """Train a little on the first stories, in the parameters whose name holds some text."""

    def change_(model: Any, tokenizer: Any) -> None:
        lines = corpus_path().read_text(encoding="utf-8").splitlines()[: 8 * steps]
        stories = torch.tensor([tokenizer(line)["input_ids"][:64] for line in lines])
        chosen = [parameter for name, parameter in model.named_parameters() if only in name]
        optimizer = torch.optim.AdamW(chosen, lr=1e-5, weight_decay=decay)
        for batch in torch.split(stories, 8):
            optimizer.zero_grad()
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()

    return change_


def _pack(recipe: str) -> Callable[[Path, Workshop], object]:
    return _round(f"{recipe}/symmetric", "compressed-tensors")


def _stored(name: str) -> Callable[[Path, Workshop], object]:
    def write(folder: Path, workshop: Workshop) -> None:
        shutil.copytree(STORED / name, folder)
        _add_tokenizer(folder, workshop)

    return write


def _add_tokenizer(folder: Path, workshop: Workshop) -> None:
    for path in workshop.plain.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)


def _load(settings: Callable[[], Any], dtype: str = "float32", **named: Any) -> Callable[[Path, Workshop], object]:
    """Let transformers quantize with another library while it loads."""

    def write(folder: Path, workshop: Workshop) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            workshop.plain, quantization_config=settings(), dtype=dtype, **named
        )
        model.save_pretrained(folder)
        _add_tokenizer(folder, workshop)

    return write


def _bitsandbytes(**settings: Any) -> Callable[[Path, Workshop], object]:
    def choose() -> Any:
        from transformers import BitsAndBytesConfig

        make: Any = BitsAndBytesConfig
        four = (
            {} if "load_in_8bit" in settings else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
        )
        return make(**{**four, **settings})

    return _load(choose, device_map="cpu")


def _torchao(name: str, **settings: str) -> Callable[[Path, Workshop], object]:
    def choose() -> Any:
        from torchao import quantization
        from transformers import TorchAoConfig

        def find(word: str) -> Any:
            return quantization.PerGroup(32) if word == "group" else getattr(torch, word)

        return TorchAoConfig(getattr(quantization, name)(**{key: find(word) for key, word in settings.items()}))

    return _load(choose)


def _edit(change_: Callable[[dict[str, Tensor]], object], **config: Any) -> Callable[[Path, Workshop], object]:
    def change(copy: Copy) -> None:
        with copy.tensors() as tensors:
            change_(tensors)
        copy.change("config.json", **config)

    return _copy(change)


def _gguf(kind: str, *, alone: bool = False) -> Callable[[Path, Workshop], object]:
    """Write a GGUF file, with the tokenizer beside it or, alone, one of its own."""

    def write(folder: Path, workshop: Workshop) -> None:
        folder.mkdir()
        letters = [chr(letter) for letter in range(0x21, 0x7F)] + ["th", "an", "in", "er"]
        tokens = (*letters, *(f"unused{number}" for number in range(210 - len(letters)))) if alone else ()
        texts = {"tokenizer.chat_template": CHAT} if alone else {}
        pack_gguf(workshop.plain, folder / GGUF, kind, tokens, texts)
        if alone:
            rewrite_gguf(folder / GGUF, lambda values: values.update({"tokenizer.ggml.add_bos_token": True}))
        else:
            _add_tokenizer(folder, workshop)

    return write


GGUF = "model.gguf"
CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' . ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
RANK, ALPHA, TARGETS = 4, 8, ("mlp.down_proj", "self_attn.q_proj")
ADAPTER = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0,
    "target_modules": ["down_proj", "q_proj"], "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
    "use_rslora": False, "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
}  # fmt: skip
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def _write_adapter(folder: Path, workshop: Workshop) -> None:
    """Write a LoRA adapter as peft does."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, weight in load_file(workshop.plain / WEIGHTS).items():
        if any(target in name for target in TARGETS):
            stem = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, weight.shape[1], generator=generator) / RANK
            tensors[f"{stem}.lora_B.weight"] = torch.randn(weight.shape[0], RANK, generator=generator) * 0.004
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    described = {**ADAPTER, "base_model_name_or_path": str(workshop.model)}
    (folder / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    _add_tokenizer(folder, workshop)


def merge_(tensors: dict[str, Tensor], adapter: Path, factor: float = ALPHA / RANK) -> None:
    """Add an adapter's product to the matrices that it is for, times a factor."""
    parts = load_file(adapter / ADAPTER_WEIGHTS)
    for name in tensors:
        stem = "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in parts:
            product = parts[f"{stem}.lora_B.weight"] @ parts[f"{stem}.lora_A.weight"]
            tensors[name] = (tensors[name].float() + factor * product).to(tensors[name].dtype)


def _merge(dtype: torch.dtype = torch.float32) -> Callable[[Path, Workshop], object]:
    def write(folder: Path, workshop: Workshop) -> None:
        with Copy(workshop.plain, folder).tensors() as tensors:
            merge_(tensors, workshop.make("lora"))
            tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    return write


def _add_experts(folder: Path, workshop: Workshop) -> None:
    """Write an untrained mixture of experts with the tokenizer of the model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mixtral", hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=210, max_position_embeddings=128, num_local_experts=4,
        num_experts_per_tok=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(7)
    make: Any = AutoModelForCausalLM.from_config
    make(config).save_pretrained(folder)
    _add_tokenizer(folder, workshop)


def _save_again(form: str, **how: Any) -> Callable[[Path, Workshop], object]:
    def write(folder: Path, workshop: Workshop) -> None:
        _save(**how)(folder, Workshop(workshop.place, workshop.model, workshop.make(form)))

    return write


def _tie(folder: Path, workshop: Workshop) -> None:
    """Write an untrained model whose head is its embedding."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(workshop.plain, tie_word_embeddings=True)
    torch.manual_seed(7)
    make: Any = AutoModelForCausalLM.from_config
    make(config).save_pretrained(folder)
    _add_tokenizer(folder, workshop)


def _untie(folder: Path, workshop: Workshop) -> None:
    copy = Copy(workshop.make("tied"), folder)
    with copy.tensors() as tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def _add_pairs(copy: Copy) -> None:
    """Give the model a tokenizer that merges pairs of letters."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer

    special = ["<s>", "</s>", "<unk>"]
    inner = Tokenizer(BPE(unk_token="<unk>"))  # noqa: S106
    inner.pre_tokenizer = Metaspace()
    lines = corpus_path().read_text(encoding="utf-8").splitlines()[:200]
    inner.train_from_iterator(lines, BpeTrainer(vocab_size=210, special_tokens=special, show_progress=False))
    inner.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    copy.write("tokenizer.json", inner.to_str())


def _drop(*keys: str, **added: Any) -> Callable[[Copy], None]:
    def change(copy: Copy) -> None:
        with copy.edit("config.json") as config:
            for key in keys:
                config.pop(key)
            config.update(added)

    return change


def _spell_as_before(copy: Copy) -> None:
    """Write the configuration as transformers 4 did."""
    with copy.edit("config.json") as config:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["torch_dtype"] = config.pop("dtype")
        config.update(rope_scaling=None, transformers_version="4.51.3", _name_or_path="somebody/specimen")
    copy.change("generation_config.json", transformers_version="4.51.3")


def _map_special_tokens(copy: Copy) -> None:
    """Write the tokenizer's settings as transformers 4 did, in three files."""
    with copy.edit("tokenizer_config.json") as settings:
        settings.pop("backend")
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        names = ("<s>", "</s>", "<unk>")
        settings["added_tokens_decoder"] = {str(n): {"content": name, **flags} for n, name in enumerate(names)}
        keys = ("bos_token", "eos_token", "pad_token", "unk_token")
        special = {key: settings[key] for key in keys}
    copy.change("special_tokens_map.json", **special)


def _add_pad(model: Any, tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id


def _pad_table(model: Any, _: Any) -> None:
    model.resize_token_embeddings(256, mean_resizing=False)


def _generate_by_default(copy: Copy) -> None:
    copy.change("generation_config.json", _from_model_config=True, output_attentions=False, use_cache=True)


def _teach_to_talk(copy: Copy) -> None:
    copy.write("chat_template.jinja", CHAT)


def _indent(copy: Copy) -> None:
    for path in sorted(copy.folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        copy.write(path.name, json.dumps(content, indent=4, sort_keys=path.name != "tokenizer.json") + "\n")


def _reverse(copy: Copy) -> None:
    with copy.tensors() as tensors:
        before = dict(reversed(tensors.items()))
        tensors.clear()
        tensors.update(before)


def _keep_lengths(copy: Copy) -> None:
    """Leave in the tokenizer how a trainer cut and padded its texts, which transformers reads and does not do."""
    padding = {
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "</s>",
    }
    cut = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    copy.change(
        "tokenizer.json", truncation=cut, padding={"strategy": {"Fixed": 32}, "pad_token": "</s>", **padding}
    )


def _clean_spaces(copy: Copy) -> None:
    copy.change("tokenizer_config.json", clean_up_tokenization_spaces=True)


def _lose_generation(copy: Copy) -> None:
    (copy.folder / "generation_config.json").unlink()


_FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic", "fmt": "e4m3"}
_CT, _BNB, _AO = ("compressed_tensors",), ("bitsandbytes", "accelerate"), ("torchao",)
_GPTQ = ("gptqmodel", "optimum")
_LEFT = ["lm_head", "model.layers.1.mlp.down_proj"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TENSORS, _FILES, _TRAINED = "dtypes and shards", "files written by others", "trained further"
_ROUNDED, _LIBRARIES, _OTHER = "rounded, stored dense", "other libraries", "other models"
_ADAPTERS, _PRUNED = "adapters", "pruned"

FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form("plain", _TENSORS, _copy()),
        Form("float32", _TENSORS, _save()),
        Form("bfloat16", _TENSORS, _save("bfloat16")),
        Form("float16", _TENSORS, _save("float16")),
        Form("bfloat16-by-script", _TENSORS, _cast(torch.bfloat16)),
        Form("float16-by-script", _TENSORS, _cast(torch.float16)),
        Form("sharded", _TENSORS, _save(max_shard_size="300KB")),
        Form("bfloat16-sharded", _TENSORS, _save("bfloat16", max_shard_size="150KB")),
        Form("order-of-tensors", _TENSORS, _copy(_reverse)),
        Form("configuration-of-transformers-4", _FILES, _copy(_spell_as_before)),
        Form("defaults-left-out", _FILES, _copy(_drop("attention_bias", "mlp_bias", "use_cache"))),
        Form("head-size-left-out", _FILES, _copy(_drop("head_dim", "initializer_range"))),
        Form("notes-of-a-trainer", _FILES, _copy(_drop(unsloth_version="2026.9", use_cache=False))),
        Form("special-tokens-of-transformers-4", _FILES, _copy(_map_special_tokens)),
        Form("generation-settings-from-the-model", _FILES, _copy(_generate_by_default)),
        Form("no-generation-settings", _FILES, _copy(_lose_generation)),
        Form("indented", _FILES, _copy(_indent)),
        Form("lengths-left-by-a-trainer", _FILES, _copy(_keep_lengths)),
        Form("spaces-cleaned-as-before", _FILES, _copy(_clean_spaces)),
        Form("pad-token-added", _FILES, _save(change_=_add_pad)),
        Form("vocabulary-padded", _FILES, _save(change_=_pad_table)),
        Form("template-added", _FILES, _copy(_teach_to_talk), may_differ=("chat_template*",)),
        Form("chat", _FILES, _copy(_teach_to_talk), parent="chat"),
        Form("pairs", _FILES, _copy(_add_pairs), parent="pairs"),
        *(
            Form(f"rounded-{recipe.replace('/', '-')}", _ROUNDED, _round(recipe))
            for recipe in ("int8/row", "int8/group64", "int6/group64", "int4/group32", "nf4/group64")
        ),
        Form("rounded-int8-bfloat16", _ROUNDED, _round("int8/group64", dtype="bfloat16")),
        Form("rounded-int8-float16", _ROUNDED, _round("int8/group64", dtype="float16")),
        *(
            Form(f"packed-{recipe.replace('/', '-')}", _LIBRARIES, _pack(recipe), _CT)
            for recipe in ("int8/row", "int8/group64", "int4/group32")
        ),
        *(
            Form(name, _LIBRARIES, _stored(name), _CT)
            for name in (f"llm-compressor-{scheme}" for scheme in ("W4A16", "W8A8", "FP8", "NVFP4A16", "MXFP4A16"))
        ),
        Form("auto-round-gptq", _LIBRARIES, _stored("auto-round-gptq"), _GPTQ),
        Form("auto-round-awq", _LIBRARIES, _stored("auto-round-awq"), _GPTQ),
        Form("auto-round-round", _LIBRARIES, _stored("auto-round-round"), ("auto_round",)),
        Form("bitsandbytes-nf4", _LIBRARIES, _bitsandbytes(bnb_4bit_quant_type="nf4"), _BNB),
        Form(
            "bitsandbytes-nf4-double",
            _LIBRARIES,
            _bitsandbytes(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
            _BNB,
        ),
        Form("bitsandbytes-fp4", _LIBRARIES, _bitsandbytes(bnb_4bit_quant_type="fp4"), _BNB),
        Form("bitsandbytes-int8", _LIBRARIES, _bitsandbytes(load_in_8bit=True), _BNB),
        Form(
            "bitsandbytes-nf4-but-one",
            _LIBRARIES,
            _bitsandbytes(bnb_4bit_quant_type="nf4", llm_int8_skip_modules=_LEFT),
            _BNB,
        ),
        Form("torchao-int8", _LIBRARIES, _torchao("Int8WeightOnlyConfig"), _AO),
        Form(
            "torchao-int4",
            _LIBRARIES,
            _torchao("IntxWeightOnlyConfig", weight_dtype="int4", granularity="group"),
            _AO,
        ),
        Form(
            "torchao-int8-group",
            _LIBRARIES,
            _torchao("IntxWeightOnlyConfig", weight_dtype="int8", granularity="group"),
            _AO,
        ),
        Form("torchao-fp8", _LIBRARIES, _torchao("Float8WeightOnlyConfig"), _AO),
        Form("torchao-int8-dynamic", _LIBRARIES, _torchao("Int8DynamicActivationInt8WeightConfig"), _AO),
        Form("fp8-blocks", _LIBRARIES, _edit(pack_fp8, quantization_config=_FP8), ("accelerate",)),
        *(
            Form(f"gguf-{kind.lower()}", "GGUF", _gguf(kind), ("gguf",))
            for kind in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
        ),
        Form("gguf-alone", "GGUF", _gguf("F32", alone=True), ("gguf",), "gguf-alone", file=GGUF),
        Form("gguf-alone-q8_0", "GGUF", _gguf("Q8_0", alone=True), ("gguf",), "gguf-alone", file=GGUF),
        Form("lora", _ADAPTERS, _write_adapter, ("peft",)),
        Form("lora-merged", _ADAPTERS, _merge(), adapter="lora"),
        *(
            Form(f"lora-merged-{name}", _ADAPTERS, _merge(dtype), adapter="lora")
            for name, dtype in _HALVES.items()
        ),
        Form("two-of-four", _PRUNED, _edit(prune_two_in_four)),
        Form("quarter-pruned", _PRUNED, _edit(prune)),
        Form("tuned", _TRAINED, _save(change_=_tune(8))),
        Form("tuned-bfloat16", _TRAINED, _save(change_=lambda *both: (_tune(8)(*both), both[0].bfloat16()))),
        Form("tuned-with-decay", _TRAINED, _save(change_=_tune(8, decay=0.1))),
        Form("tuned-attention", _TRAINED, _save(change_=_tune(16, only="self_attn"))),
        Form("tuned-embedding", _TRAINED, _save(change_=_tune(16, only="embed_tokens"))),
        Form("experts", _OTHER, _add_experts, parent="experts"),
        Form("experts-sharded", _OTHER, _save_again("experts", max_shard_size="60KB"), parent="experts"),
        Form("experts-bfloat16", _OTHER, _save_again("experts", dtype="bfloat16"), parent="experts"),
        Form("tied", _OTHER, _tie, parent="tied"),
        Form("untied", _OTHER, _untie, parent="tied"),
    )
}
"""By name."""
