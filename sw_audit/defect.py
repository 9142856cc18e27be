"""An error that nobody foresaw: told in one line, with its traceback in a file."""

from __future__ import annotations

import os
import tempfile
import time
import traceback

from sw_audit.printable import printable, printable_lines

DEFECT = 70
"""How every command exits after one: `EX_SOFTWARE` of sysexits.h, which no verdict and no input error shares."""


def tell_defect(error: BaseException) -> str:
    """Write an error's traceback into a file of the folder for temporary files, and tell both in one line.

    The file says which lines were run, and no values of variables; it is the user's alone to read.
    """
    told = " ".join(f"{type(error).__name__}: {error}".split())
    trace = printable_lines("".join(traceback.format_exception(error)))
    try:
        prefix = time.strftime("sw-audit-error-%Y%m%d-%H%M%S-")
        handle, name = tempfile.mkstemp(".txt", prefix, text=True)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(trace)
        where = f"the traceback is in {name}; please report it"
    except OSError as trouble:
        where = f"its traceback could not be written ({trouble.strerror}); run it again with --debug"
    return f"an error of sw-audit itself, {printable(told)}; {where}"
