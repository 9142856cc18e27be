"""Opening a checkpoint: everything is checked that the library would let pass in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sw_audit.checkpoint.digest import digest_manifest, digest_paths
from sw_audit.checkpoint.families import find_decoder_layers, require_down_projections
from sw_audit.checkpoint.folder import CheckpointFolder, quote_source
from sw_audit.checkpoint.loading import count_parameters, load
from sw_audit.checkpoint.matrices import DecoderLayer, Matrix
from sw_audit.checkpoint.rotation import read_declared_rotation
from sw_audit.checkpoint.start import apply_rule, find_start
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import BosRule, ModelPolicy
from sw_audit.record.identity import FileDigest, ModelIdentity
from sw_audit.record.start import SequenceStart

# A token is predicted from one before it.
_LEAST_POSITIONS = 2


@dataclass
class Checkpoint:
    """An open transformers model with its tokenizer, in evaluation mode and without gradients.

    `rotation` is what its files say of a rotation of its weights, if they do. `output_shapes` is noted by who has
    run it: per layer `None` where its output is a tensor, else the length of the tuple it returns. `memory` is how
    many bytes may be used at once for what is not weights, such as hidden states, logits and gradients; `None` is
    no limit. `read_module` reads the tensors of a module by its qualified name, where they are in memory only
    while it runs.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    layers: tuple[DecoderLayer, ...]
    start: SequenceStart = field(default_factory=SequenceStart)
    rotation: str | None = None
    output_shapes: list[int | None] | None = field(default=None, repr=False, compare=False)
    memory: int | None = None
    read_module: Callable[[str], dict[str, Tensor]] | None = field(default=None, repr=False, compare=False)

    @property
    def streamed(self) -> bool:
        """Whether its layers are in memory only while they are used."""
        return self.read_module is not None

    def starting(self, rule: BosRule) -> Checkpoint:
        """Return the same open model with BOS before every text, or not.

        Raises:
            CheckpointError: If BOS is always to be there and the tokenizer defines none.
        """
        return replace(self, start=apply_rule(self.start, rule, f"model {self.identity.source!r}"))

    def starting_like(self, parent: Checkpoint) -> Checkpoint:
        """Return the same open model with BOS before every text exactly if it stands there for its parent.

        Raises:
            CheckpointError: If its tokenizer defines no BOS token, and the parent's stands there.
        """
        asked = f"model {self.identity.source!r} beside its parent {parent.identity.source!r}"
        return replace(
            self, start=apply_rule(self.start, "never" if parent.start.bos is None else "always", asked)
        )

    def matrix(self, parameter: str, expert: int | None = None) -> Matrix:
        """Return the matrix of that qualified name, and of that expert where experts are fused.

        Raises:
            KeyError: If no decoder layer has it.
        """
        return self._matrices[parameter, expert]

    @property
    def device(self) -> torch.device:
        """Where the model runs, also where its weights are there only while they are used."""
        return torch.device(self.identity.device)

    @property
    def is_streamed(self) -> bool:
        """Whether decoder layers are read from files each time that they run."""
        return any(layer.bring_in is not None for layer in self.layers)

    @property
    def maximum_positions(self) -> int | None:
        """How many tokens the model takes at once; `None` if its configuration does not say."""
        text = self.model.config.get_text_config(decoder=True)
        return getattr(text, "max_position_embeddings", None)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model gives logits for."""
        size: int = self.model.config.get_text_config(decoder=True).vocab_size
        return size

    @cached_property
    def _matrices(self) -> dict[tuple[str, int | None], Matrix]:
        matrices = (matrix for layer in self.layers for matrix in (*layer.matrices, *layer.down_projections))
        return {(matrix.parameter, matrix.expert): matrix for matrix in matrices}


def open_checkpoint(policy: ModelPolicy) -> Checkpoint:
    """Open a model, or say in one line why not.

    A checkpoint opens only if every tensor it holds was asked for, every tensor that was asked for is there
    in the right shape, and every weight is finite. Pickles and code that comes with a checkpoint are read
    only if the policy says so. A local path is never looked up on the network.

    Raises:
        CheckpointError: If it cannot be opened as it should be.
    """
    folder = CheckpointFolder.require(policy)
    device = find_device(policy)
    with quiet_libraries():
        model, tokenizer, folders = load(folder, device)
    return make_checkpoint(model, tokenizer, folder, folders)


def find_device(policy: ModelPolicy) -> torch.device:
    """Return the device that a model is to run on; CheckpointError if this machine has none such."""
    try:
        device = torch.device(policy.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = f"device {policy.device!r} is not available here"
        raise CheckpointError(quote_source(policy), found, "name a device of this machine, such as cpu") from error
    return device


def make_checkpoint(
    model: Any, tokenizer: Any, own: CheckpointFolder, digested: Sequence[CheckpointFolder]
) -> Checkpoint:
    """Make an open checkpoint of a model, and refuse one without MLPs or with the tokenizer of another.

    The files of the folders `digested` are read for the model's digest: its own folder first; the files of an
    adapter's base are named `base/`.
    """
    policy = own.policy
    refuse_unusable(model, tokenizer, own.asked)
    model.eval().requires_grad_(False)
    layers = find_decoder_layers(model)
    require_down_projections(layers, policy.source)
    files = [
        file.model_copy(update={"path": "base/" * depth + file.path})
        for depth, folder in enumerate(digested)
        for file in digest_paths(folder.weight_files, folder.path)
    ]
    start = apply_rule(find_start(tokenizer, own), policy.bos or "auto", own.asked)
    identity = identify_model(model, layers, policy, files)
    return Checkpoint(model, tokenizer, identity, layers, start, read_declared_rotation(own))


def refuse_unusable(model: Any, tokenizer: Any, asked: str) -> None:
    """Refuse a model that takes no two tokens, and tokens without a row that ordinary text or its start has."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        found = f"its tokenizer has {tokenizer.vocab_size} tokens, its embedding only {rows} rows"
        raise CheckpointError(asked, found, "put the model's own tokenizer beside the weights")
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if positions is not None and not (isinstance(positions, int) and positions >= _LEAST_POSITIONS):
        found = f"its configuration says max_position_embeddings = {positions!r:.40}"
        raise CheckpointError(asked, found, "give the number of tokens that it takes at once, 2 or more")
    for token, number in tokenizer.get_added_vocab().items():
        # Words in brackets that nobody writes, such as those of padding, may well be without.
        if number >= rows and (number == tokenizer.bos_token_id or token.replace(" ", "").isalnum()):
            found = f"its tokenizer gives {token!r:.40} the number {number}, and its embedding has {rows} rows"
            raise CheckpointError(asked, found, "put the model's own tokenizer beside the weights")


def identify_model(
    model: Any, layers: Sequence[DecoderLayer], policy: ModelPolicy, files: Sequence[FileDigest]
) -> ModelIdentity:
    """Say which model it is; `files` are its digests, none where nobody asked for them."""
    return ModelIdentity(
        id=policy.id,
        source=policy.source,
        revision=policy.revision,
        family=model.config.model_type,
        architecture=type(model).__name__,
        layers=len(layers),
        hidden_size=model.config.get_text_config(decoder=True).hidden_size,
        parameters=count_parameters(model),
        dtype=str(model.dtype).removeprefix("torch."),
        device=policy.device,
        files=tuple(files),
        digest=digest_manifest(files) if files else "",
    )
