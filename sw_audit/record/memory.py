"""How much memory the audit of one model took."""

from __future__ import annotations

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.memory import write_memory


class MemoryUse(Fact):
    """Memory of one model's audit, in bytes, as the operating system counts it.

    Attributes:
        budget: What it might take beyond the program itself.
        program: What the program took before the model was opened.
        peak: The most that was taken beyond that, mapped files included; `None` where the system does not say.
        weights_read: How much was read of the weights of models whose layers were in memory only while they were
            used, all times counted; 0 where they were there as a whole.
    """

    budget: int = Field(ge=1)
    program: int = Field(ge=0)
    peak: int | None = Field(default=None, ge=0)
    weights_read: int = Field(default=0, ge=0)

    def __str__(self) -> str:
        """Say it in a few words, such as `380 MiB at most of 400 MiB, 5.2 GiB of weights read`."""
        peak = "an unknown amount" if self.peak is None else f"{write_memory(self.peak)} at most"
        read = f", {write_memory(self.weights_read)} of weights read layer by layer" if self.weights_read else ""
        return f"{peak} of {write_memory(self.budget)} beyond the program's {write_memory(self.program)}{read}"

    @property
    def exceeds(self) -> bool:
        """Whether more was taken than the budget allows."""
        return self.peak is not None and self.peak > self.budget
