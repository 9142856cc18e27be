"""Weights of modules that keep theirs packed, read by asking a module what it does to unit vectors.

A module is a function, whatever its format: column `c` of the matrix that it multiplies by is `f(e_c) - f(0)`.
No format is unpacked here. Where a module shows a weight of its own (`weight`, or `weight.dequantize()`), that is
believed if probing bears it out up to one common factor: then activations are rounded on their way in, which
changes unit vectors too, and what it shows is free of that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sw_audit.checkpoint.formats.format import list_module_packages
from sw_audit.checkpoint.lazy_tensor import LazyTensor

FLOATING_DTYPES = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
# Unit vectors in one call; few enough that outputs take little memory beside the matrix.
_AT_ONCE = 512
# Columns on which a weight that a module shows is held against what it does.
_TRIED = 64
# A unit vector that is rounded to 8 or 4 bits changes by no more than this.
_ROUNDED_AWAY = 0.08
_KEPT_BYTES = 1 << 29
_KNOWN = ("torch.", "transformers.")
# Where transformers keeps the modules of formats that it reads by itself.
_INTEGRATIONS = "transformers.integrations."


def is_opaque(module: nn.Module) -> bool:
    """Tell whether a module multiplies by a matrix that it does not hold as a plain parameter.

    Plain is a Linear whose weight is a plain floating parameter, and whose class, torch's own or a model's, is all
    that says what is done with it.
    """
    if find_sizes(module) is None:
        return False
    package = type(module).__module__
    packed = package.startswith((_INTEGRATIONS, *list_module_packages()))
    if not isinstance(module, nn.Linear):
        # Modules of models that say how wide they are may do anything, as groups of experts do.
        return packed or not package.startswith(_KNOWN)
    weight = module._parameters.get("weight")
    plain = type(weight) in (nn.Parameter, LazyTensor) and weight is not None and weight.dtype in FLOATING_DTYPES
    return packed or not plain or "forward" in module.__dict__


def find_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return how many channels leave and enter a module that says so, (out, in); `None` if it does not."""
    for keys in (("out_features", "in_features"), ("outfeatures", "infeatures")):
        rows, columns = (getattr(module, key, None) for key in keys)
        if isinstance(rows, int) and isinstance(columns, int):
            return rows, columns
    return None


def find_module_device(module: nn.Module) -> torch.device:
    """Return where a module's first tensor is; the CPU if it has none."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def answered_by(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call a function in place of a module's `forward`, hooks and all; afterwards the module is as before."""
    stored = module.__dict__.get("forward")
    module.forward = _Answer(forward)
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if stored is not None:
            module.forward = stored


def give_zeros(width: int, states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Answer in the place of a module with so many output channels that adds nothing."""
    return states.new_zeros(*states.shape[:-1], width)


@dataclass(frozen=True)
class _Answer:
    """Marks a function that stands in for a module, so that nothing read meanwhile is kept."""

    function: Callable[..., Any]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.function(*inputs, **named)


@dataclass
class ProbedMemory:
    """Probed matrices, the last ones used, as long as they are few bytes beside a model."""

    kept: OrderedDict[nn.Module, Tensor] = field(default_factory=OrderedDict)

    def get(self, module: nn.Module) -> Tensor | None:
        """Return a module's matrix, if it is still kept."""
        if module in self.kept:
            self.kept.move_to_end(module)
        return self.kept.get(module)

    def keep(self, module: nn.Module, weight: Tensor) -> None:
        """Keep a module's matrix, and drop those that were used longest ago."""
        self.kept[module] = weight
        while len(self.kept) > 1 and sum(weight.nbytes for weight in self.kept.values()) > _KEPT_BYTES:
            self.kept.popitem(last=False)


@dataclass(frozen=True, eq=False)
class Probed:
    """The matrix, `shape` (out, in), that an opaque module multiplies by.

    The module is called with tensors of `dtype`, the model's; `memory` keeps matrices once they have been read.
    """

    module: nn.Module
    shape: tuple[int, int]
    dtype: torch.dtype
    memory: ProbedMemory = field(default_factory=ProbedMemory)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return find_module_device(self.module)

    @torch.no_grad()
    def read(self) -> Tensor:
        """Read the matrix, [out, in], in the dtype that the module answers in; a copy, or what it shows itself."""
        if self._is_changed():
            return self._ask(range(self.shape[1]))
        weight = self.memory.get(self.module)
        if weight is None:
            shown = self.find_shown()
            weight = self._ask(range(self.shape[1])) if shown is None else shown
            self.memory.keep(self.module, weight)
        return weight

    @torch.no_grad()
    def read_scalars(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Read some scalars by int64 indices, [scalars], without reading what lies in other columns."""
        if not self._is_changed():
            kept = self.memory.get(self.module)
            weight = self.find_shown() if kept is None else kept
            if weight is not None:
                return weight[rows, columns]
        asked, places = torch.unique(columns, return_inverse=True)
        return self._ask(asked.tolist())[rows, places]

    @torch.no_grad()
    def find_shown(self) -> Tensor | None:
        """Return the weight that the module shows, [out, in], if what the module does agrees with it."""
        weight: Any = self.module._parameters.get("weight")
        if weight is None or tuple(weight.shape) != self.shape:
            return None
        if type(weight) is not nn.Parameter:
            dequantize = getattr(weight, "dequantize", None)
            weight = dequantize() if callable(dequantize) else None
        if not isinstance(weight, Tensor) or weight.dtype not in FLOATING_DTYPES:
            return None
        shown = weight.detach()
        step = max(1, self.shape[1] // _TRIED)
        tried = range(0, self.shape[1], step)
        done, said = self._ask(tried).double(), shown[:, list(tried)].double()
        square = float(said.square().sum())
        if not square:
            return shown if not bool(done.any()) else None
        factor = float((done * said).sum()) / square
        apart = float((done - factor * said).norm()) / square**0.5
        return shown if abs(factor - 1) <= _ROUNDED_AWAY and apart <= torch.finfo(self.dtype).eps else None

    @torch.no_grad()
    def measure_error(self, seed: int = 0) -> float:
        """Measure how far the module is from multiplying by the matrix: relative error on random vectors.

        Rounding of the model's dtype is a part of it; rounding of activations is most of it where there is any.
        """
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 16, self.shape[1], generator=generator).to(self.device, self.dtype)
        done = self._call(x).double() - self._call(torch.zeros_like(x[:, :1])).double()
        expected = x.double() @ self.read().double().T
        return float((done - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))

    def _is_changed(self) -> bool:
        return isinstance(self.module.__dict__.get("forward"), _Answer)

    def _ask(self, columns: range | list[int]) -> Tensor:
        device, width = self.device, self.shape[1]
        # Two rows, for one is another kernel in some libraries.
        nothing = self._call(torch.zeros(1, 2, width, dtype=self.dtype, device=device))[0, :1]
        # Some libraries scale by the largest magnitude and make nothing of zeros.
        nothing = torch.where(nothing.isfinite(), nothing, 0.0)
        read = []
        for begin in range(0, len(columns), _AT_ONCE):
            part = torch.tensor(list(columns[begin : begin + _AT_ONCE]), device=device)
            units = torch.zeros(1, len(part), width, dtype=self.dtype, device=device)
            units[0, torch.arange(len(part), device=device), part] = 1.0
            read.append((self._call(units)[0] - nothing).T)  # [out, part]
        return torch.cat(read, dim=1)

    def _call(self, x: Tensor) -> Tensor:
        # Not through hooks: whoever watches the module is to see the model's own calls only.
        answer: Tensor = self.module.forward(x)
        return answer
