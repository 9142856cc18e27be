"""What a search for a prompt that breaks the law of the super activation came to."""

from __future__ import annotations

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index
from sw_audit.record.location import PromptTrace


class BreakingPrompt(Fact):
    """The shortest prompt that was found on which a super activation does not stay as it was located.

    Attributes:
        prompt: The prompt, as text.
        token_ids: The prompt, as the model saw it.
        because: What it breaks first, in words.
        traces: The super activations' channels on it, one each.
    """

    prompt: str
    token_ids: tuple[Index, ...] = Field(min_length=1)
    because: str
    traces: tuple[PromptTrace, ...] = Field(min_length=1)


class PromptSearch(Fact):
    """A search for such a prompt among random ones.

    Attributes:
        examples: How many prompts were tried at most, at each length that was asked for; 0 is no search.
        tolerance: Relative deviation from the located magnitude that was allowed in it.
        found: The prompt, shrunk; `None` if none turned up.
        omitted: Why there was no search.
        stopped: Why the search could not be ended, such as a prompt on which the model is not finite.
    """

    examples: Index
    tolerance: float = Field(ge=0)
    found: BreakingPrompt | None = None
    omitted: str | None = None
    stopped: str | None = None
