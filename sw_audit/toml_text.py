"""The text of a TOML file, read within bounds: the standard library's reader has none."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

_PARTS = 20
"""Parts of a key at most: those of policies have three."""
_LONG_KEY = re.compile(
    r"""(?<![\\\w"'.-])(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
    rf"""(?:[ \t]*+\.[ \t]*+(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')){{{_PARTS}}}"""
)
_CHARACTERS = 4_000_000
"""A hundred times the index that ships."""


def parse_toml(text: str) -> dict[str, Any]:
    """Read a TOML document whose numbers and tables JSON can hold, too.

    A key of n parts takes the library memory of the square of n; so many parts are refused before.

    Raises:
        ValueError: If it is not TOML, or larger, nested deeper or with longer integers than anything that this
            program reads.
    """
    if len(text) > _CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, more than {_CHARACTERS:,}")
    if (long := _LONG_KEY.search(text)) is not None:
        line = text.count("\n", 0, long.start()) + 1
        raise ValueError(f"a key has more than {_PARTS} parts (at line {line})")
    try:
        document = tomllib.loads(text)
        json.dumps(document, default=str)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        raise ValueError("an integer has thousands of digits") from error
    return document
