"""A model in a program that serves models: which one, and what it makes of texts beside the files' own tokenizer.

What it was measured at stands among the measurements of the model.
"""

from __future__ import annotations

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index


class EngineIdentity(Fact):
    """Which program it is, and how it ran the model.

    Attributes:
        engine: What the policy calls it, such as `llama.cpp`.
        version: Its version or build, as it says; empty if it does not.
        package: The Python package that brings it, with its version; empty of a server.
        served: What a server calls the model; empty elsewhere.
        vocabulary: How many tokens it gives log-probabilities for.
        top_tokens: How many of the likeliest tokens it tells, the one that follows always among them; `None`
            where it tells all.
        settings: How it was set up, by name, such as `threads`.
    """

    engine: str
    version: str = ""
    package: str = ""
    served: str = ""
    vocabulary: Index
    top_tokens: Index | None = None
    settings: dict[str, str] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """How it is called: engine, version and package."""
        return " ".join(filter(None, (self.engine, self.version, self.package and f"({self.package})")))


class TokenizedText(Fact):
    """One text as the engine's tokenizer cuts it, beside the tokenizer of the files in transformers.

    Attributes:
        text: The text, or its beginning.
        tokens: How many tokens the one of the files makes.
        engine_tokens: How many the engine's makes.
        first_difference: Place of the first token that is another, counted from 0; `None` if none is.
        expected: Tokens from there on, as the files have them, a few.
        found: As the engine has them.
    """

    text: str
    tokens: Index
    engine_tokens: Index
    first_difference: Index | None = None
    expected: tuple[int, ...] = ()
    found: tuple[int, ...] = ()


class RenderedChat(Fact):
    """A conversation as the engine writes it for the model, beside the chat template of the files in transformers.

    Attributes:
        expected: As the files have it.
        found: As the engine has it; `None` if it could not.
        because: Why it could not; empty if it could.
    """

    expected: str
    found: str | None = None
    because: str = ""


class EngineResult(Fact):
    """A model in its engine.

    Attributes:
        identity: Which engine.
        tokenized: Texts, cut by both tokenizers; empty if the engine does not tell its tokens.
        chats: Conversations, written by both; empty without a chat template, or if the engine does not tell.
        untold: Why the engine does not tell its tokens or chats, a clause; empty if it does.
        notes: What a reader should know.
    """

    identity: EngineIdentity
    tokenized: tuple[TokenizedText, ...] = ()
    chats: tuple[RenderedChat, ...] = ()
    untold: str = ""
    notes: tuple[str, ...] = ()
