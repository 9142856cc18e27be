"""LoRA adapters: a folder with an adapter and no model, which goes on a base of any format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from sw_audit.checkpoint.formats.format import Format, register
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.model_policy import ModelPolicy

if TYPE_CHECKING:
    from sw_audit.checkpoint.folder import CheckpointFolder

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@register
class Adapter(Format):
    """An adapter of peft."""

    method = "lora"
    packages = ("peft",)
    extra = "adapters"
    uses_config = False
    module_packages = ("peft.",)

    def recognizes(self, folder: CheckpointFolder) -> bool:
        """Tell whether the folder holds an adapter and no model."""
        return folder.holds(ADAPTER_CONFIG) and not folder.holds("config.json")

    def list_files(self, folder: CheckpointFolder) -> tuple[Path, ...]:
        """List the one file."""
        return (folder.path / ADAPTER_WEIGHTS,)

    def find_base(self, folder: CheckpointFolder) -> ModelPolicy | None:
        """Return the model that the adapter goes on: the one that the policy names, else the one that it names."""
        try:
            settings = folder.read_json(ADAPTER_CONFIG)
        except CheckpointError as error:
            found = f"{ADAPTER_CONFIG} is not a JSON object"
            raise BrokenWeightsError(
                folder.asked, found, "copy the adapter again", where=ADAPTER_CONFIG
            ) from error
        kind, policy = settings.get("peft_type"), folder.policy
        if kind != "LORA":
            found = f"this is an adapter of type {kind}, which is no change of its base's weights"
            raise CheckpointError(folder.asked, found, "give a LoRA adapter, or merge it and give the result")
        source = policy.base or settings.get("base_model_name_or_path")
        if not isinstance(source, str) or not source:
            found = "this is an adapter that does not say what its base model is"
            raise CheckpointError(folder.asked, found, "set `base` to the path or hub id of its base model")
        beside = folder.path / source
        place = str(beside) if not Path(source).expanduser().is_dir() and beside.is_dir() else source
        revision = None if policy.base else settings.get("revision")
        if not policy.base and not Path(place).expanduser().exists():
            place, revision = _find_cached(folder, place, revision), None
        fields = {"source": place, "id": "", "base": None, "parent": None, "gguf": None, "manifest": None}
        return ModelPolicy.model_validate({**policy.model_dump(), **fields, "revision": revision})

    def inspect(self, folder: CheckpointFolder) -> None:
        """Refuse an adapter without weights."""
        self.find_base(folder)
        if not (folder.path / ADAPTER_WEIGHTS).is_file():
            others = sorted(path.name for path in folder.path.glob("adapter_model.*"))
            found = f"there is no {ADAPTER_WEIGHTS}" + (f", only {others[0]}" if others else "")
            remedy = "store the adapter as safetensors" if others else "download or copy the checkpoint again"
            raise BrokenWeightsError(folder.asked, found, remedy, where=ADAPTER_WEIGHTS)

    def read_counts(self, folder: CheckpointFolder) -> tuple[str, Mapping[str, Any]]:
        """Read the ranks."""
        settings = folder.read_json(ADAPTER_CONFIG)
        ranks = settings.get("rank_pattern")
        return ADAPTER_CONFIG, {"r": [settings.get("r"), *(ranks.values() if isinstance(ranks, dict) else ())]}

    def starts_at_zero(self, tensor: str) -> bool:
        """An adapter begins with zeros, and does nothing then."""
        return "lora_" in tensor


def _find_cached(folder: CheckpointFolder, source: str, revision: object) -> str:
    """Find a base model that only the adapter names in the hub's cache; what nobody asked for is not fetched."""
    try:
        cached = try_to_load_from_cache(source, "config.json", revision=str(revision) if revision else None)
    except HFValidationError:  # a path of another machine
        cached = None
    if not isinstance(cached, str):
        found = f"its base model {source!r} is not here, and only the adapter names it"
        raise CheckpointError(folder.asked, found, f'set base = "{source}" to have it fetched, or to its path')
    return str(Path(cached).parent)
