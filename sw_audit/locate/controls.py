"""Chooses what super weights are compared with: the largest other weights, and matched controls.

Controls are inert by construction: they have no part in a super activation, as far as the locating prompt shows.
What has a part is `Involved`: what the locator named, what writes into or reads from a channel that stands out,
and what leads into a neuron that makes it stand out. A control in a super weight's own row shares its channel, and
so must add next to nothing to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from sw_audit.checkpoint.matrices import DecoderLayer, DownProjection, Matrix
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.locate.probe import probe_prompt
from sw_audit.locate.settings import DEFAULT_SETTINGS, LocatorSettings
from sw_audit.locate.trace import measure_prominence
from sw_audit.locate.weight_norms import find_inward_matrices, find_strongest, list_rows
from sw_audit.record.address import WeightAddress
from sw_audit.record.location import Location

_Place = tuple[str, int | None]
"""Parameter and expert."""


@dataclass(frozen=True)
class Involved:
    """The scalars of a model that have a part in a super activation, as its locating prompt shows.

    Attributes:
        addresses: What the locator named: the set, what single prompts show, every candidate, what makes an
            earlier stage.
        channels: Channels of the residual stream that stand out in any layer, at any token.
        inward: Rows of the matrices that lead into the neurons of `addresses`, by parameter and expert.
        quiet: Per matrix and row of a super weight, bool [inner]: whether this column's product is less than
            `settings.quiet_share` of the channel's largest magnitude, at every token.
        hidden: Width of the residual stream.
        held: Those of `channels` that carry a located super activation, also in an earlier stage.
    """

    addresses: frozenset[WeightAddress] = frozenset()
    channels: frozenset[int] = frozenset()
    inward: frozenset[tuple[_Place, int]] = frozenset()
    quiet: Mapping[tuple[_Place, int], Tensor] = field(default_factory=dict)
    hidden: int = 0
    held: frozenset[int] = frozenset()

    def feeds(self, matrix: Matrix, row: int, column: int) -> bool:
        """Tell whether a scalar feeds a super activation, from an MLP.

        It does if the locator named it, if it writes into the channel, or if it leads into a named neuron.
        """
        return (
            _address(matrix, row, column) in self.addresses
            or (isinstance(matrix, DownProjection) and row in self.held)
            or ((matrix.parameter, matrix.expert), row) in self.inward
        )

    def holds(self, matrix: Matrix, row: int, column: int) -> bool:
        """Tell whether a scalar has a part in a super activation."""
        return (
            _address(matrix, row, column) in self.addresses
            or (matrix.shape[0] == self.hidden and row in self.channels)
            or (matrix.shape[1] == self.hidden and column in self.channels)
            or ((matrix.parameter, matrix.expert), row) in self.inward
        )


NOT_INVOLVED = Involved()


def find_involved(
    checkpoint: Checkpoint, location: Location, settings: LocatorSettings = DEFAULT_SETTINGS
) -> Involved:
    """Find what has a part in a located super activation, from one more pass on the locating prompt.

    Raises:
        CheckpointError: If the residual stream is not finite on the prompt, or experts cannot be followed.
    """
    probe = probe_prompt(checkpoint, location.token_ids)
    highest = measure_prominence(probe)[1].amax((0, 1))  # [hidden]
    candidates = [
        WeightAddress(parameter=entry.parameter, row=entry.row, column=entry.column, expert=entry.expert)
        for entry in location.candidates
    ]
    causes = [cause.address for stage in location.earlier_stages for cause in stage.causes]
    of_prompts = [address for prompt in (*location.prompts, *location.other_start) for address in prompt.addresses]
    addresses = frozenset([*location.addresses, *of_prompts, *candidates, *causes])
    neurons = {((address.parameter, address.expert), address.column) for address in addresses}
    inward, quiet = set(), {}
    for layer in checkpoint.layers:
        for down in layer.down_projections:
            place = (down.parameter, down.expert)
            columns = [column for owner, column in neurons if owner == place]
            for matrix in find_inward_matrices(layer, down) if columns else ():
                place_of = (matrix.parameter, matrix.expert)
                inward |= {(place_of, row) for column in columns for row in list_rows(matrix, down, column)}
        for seen in probe.observed_in(layer.index):
            place = (seen.down.parameter, seen.down.expert)
            for row in {one.row for one in location.addresses if (one.parameter, one.expert) == place}:
                products = [seen.products_at(token, row) for token in seen.tokens.tolist()]
                loudest = torch.stack([terms.abs() for terms in products if terms is not None]).amax(0)  # [inner]
                quiet[place, row] = loudest < settings.quiet_share * probe.residual[:, :, row].abs().max()
    channels = frozenset((highest >= settings.prominence).nonzero().flatten().tolist())
    held = frozenset(activation.channel for activation in location.super_activations)
    return Involved(addresses, channels | held, frozenset(inward), quiet, len(highest), held)


def find_largest_weights(
    layers: Sequence[DecoderLayer], count: int, excluded: Iterable[WeightAddress]
) -> tuple[WeightAddress, ...]:
    """Find the weights of largest magnitude in the decoder's matrices, as the paper's released code does.

    Embeddings, head and norms are no part of the decoder's matrices, and excluded weights do not count. Largest
    magnitude first; fewer than `count` if the decoder has fewer.
    """
    if count == 0:
        return ()
    left_out: dict[tuple[str, int | None], list[WeightAddress]] = {}
    for address in excluded:
        left_out.setdefault((address.parameter, address.expert), []).append(address)
    matrices = list_matrices(layers)
    values, owners, places = torch.empty(0), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    for number, matrix in enumerate(matrices):
        magnitude = matrix.weight.abs()
        for address in left_out.get((matrix.parameter, matrix.expert), ()):
            magnitude[address.row, address.column] = -1.0
        magnitude = magnitude.flatten()
        # Models of many experts have tens of thousands of matrices: what cannot count is not looked at.
        floor = float(values[-1]) if len(values) == count else -1.0
        if float(magnitude.max()) <= floor:
            continue
        top = magnitude.topk(min(count, magnitude.numel()))
        counts = (top.values > floor).cpu()
        larger = top.values.float().cpu()[counts]
        values, order = torch.cat([values, larger]).sort(descending=True, stable=True)
        owners = torch.cat([owners, torch.full_like(larger, number, dtype=torch.long)])[order][:count]
        places = torch.cat([places, top.indices.cpu()[counts]])[order][:count]
        values = values[:count]
    return tuple(
        _address(matrices[owner], *divmod(place, matrices[owner].shape[1]))
        for owner, place in zip(owners.tolist(), places.tolist(), strict=True)
    )


def draw_placebos(
    layers: Sequence[DecoderLayer],
    super_weights: Sequence[WeightAddress],
    kind: str,
    seed: str,
    involved: Involved = NOT_INVOLVED,
) -> tuple[WeightAddress, ...]:
    """Draw one matched control for each super weight, never a super weight itself nor what is involved with one.

    Kinds are `same-row` (another column, whose product is quiet), `same-column` (another row), `same-magnitude`
    (the weight that has the same rank by magnitude among those of another layer's down-projection that may be
    drawn), and `random` (any decoder matrix). What the weights alone point at in a down-projection is not drawn.
    There is one address per super weight, all different, where the matrices allow it.

    Raises:
        ValueError: If the kind is not one of these.
    """
    random = Random(seed)  # noqa: S311 - a reproducible draw, not a secret
    taken = set(super_weights)
    drawn = []
    pointed: dict[_Place, WeightAddress | None] = {}
    owners = {(down.parameter, down.expert): (layer, down) for layer in layers for down in layer.down_projections}

    def point(matrix: Matrix) -> WeightAddress | None:
        """Return what the weights alone point at, in a down-projection."""
        place = (matrix.parameter, matrix.expert)
        if place not in pointed:
            strongest = find_strongest(*owners[place]) if place in owners else None
            pointed[place] = None if strongest is None else _address(matrix, *strongest)
        return pointed[place]

    for target in super_weights:
        # A draw can hit what is taken; in the smallest matrices nothing else may be left.
        for _ in range(100):
            matrix, row, column = _draw(layers, target, kind, random, involved, point)
            address = _address(matrix, row, column)
            if (
                address not in taken
                and address != point(matrix)
                and not _has_part(involved, matrix, row, column, kind)
            ):
                taken.add(address)
                drawn.append(address)
                break
    return tuple(drawn)


def count_weights(layers: Sequence[DecoderLayer]) -> int:
    """Count the scalars of the decoder's matrices."""
    return sum(math.prod(matrix.shape) for matrix in list_matrices(layers))


def list_matrices(layers: Sequence[DecoderLayer]) -> tuple[Matrix, ...]:
    """List the matrices of all layers, layer by layer."""
    return tuple(matrix for layer in layers for matrix in layer.matrices)


def _has_part(involved: Involved, matrix: Matrix, row: int, column: int, kind: str) -> bool:
    if kind != "same-row":
        return involved.holds(matrix, row, column)
    # It shares the channel, so what counts is what it adds to it.
    quiet = involved.quiet.get(((matrix.parameter, matrix.expert), row))
    return _address(matrix, row, column) in involved.addresses or (quiet is not None and not bool(quiet[column]))


def _draw(
    layers: Sequence[DecoderLayer],
    target: WeightAddress,
    kind: str,
    random: Random,
    involved: Involved,
    point: Callable[[Matrix], WeightAddress | None],
) -> tuple[Matrix, int, int]:
    matrices = list_matrices(layers)
    key = (target.parameter, target.expert)
    own = next(matrix for matrix in matrices if (matrix.parameter, matrix.expert) == key)
    match kind:
        case "same-row":
            return own, target.row, random.randrange(own.shape[1])
        case "same-column":
            return own, random.randrange(own.shape[0]), target.column
        case "same-magnitude":
            return _match_rank(layers, own, target, random, involved, point)
        case "random":
            matrix = random.choices(matrices, weights=[math.prod(matrix.shape) for matrix in matrices])[0]
            return matrix, random.randrange(matrix.shape[0]), random.randrange(matrix.shape[1])
    raise ValueError(f"no such kind of placebo: {kind!r}")


def _match_rank(
    layers: Sequence[DecoderLayer],
    own: Matrix,
    target: WeightAddress,
    random: Random,
    involved: Involved,
    point: Callable[[Matrix], WeightAddress | None],
) -> tuple[Matrix, int, int]:
    rank = int((own.weight.abs() > own.weight[target.row, target.column].abs()).sum())
    others = [
        down
        for layer in layers
        if not any(down.parameter == target.parameter for down in layer.down_projections)
        for down in layer.down_projections
    ]
    # A rank means the same only among as many weights.
    alike: list[DownProjection] = [down for down in others if down.shape == own.shape]
    matrix: Matrix = random.choice(alike or others) if others else own
    magnitude = matrix.weight.abs()
    magnitude[sorted(involved.channels)] = -1.0
    for address in (*involved.addresses, point(matrix)):
        if address and (address.parameter, address.expert) == (matrix.parameter, matrix.expert):
            magnitude[address.row, address.column] = -1.0
    place = int(magnitude.flatten().topk(min(rank + 1, magnitude.numel())).indices[-1])
    return matrix, *divmod(place, matrix.shape[1])


def _address(matrix: Matrix, row: int, column: int) -> WeightAddress:
    return WeightAddress(parameter=matrix.parameter, row=row, column=column, expert=matrix.expert)
