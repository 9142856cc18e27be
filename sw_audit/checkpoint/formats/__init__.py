"""The formats of stored weights, related ones in one file; importing the package registers every one of them.

To add a format, add a file: a subclass of `Format` with `@register` on it. Its attributes and methods are all that
the rest asks a format for.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
