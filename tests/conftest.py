"""Makes the shared builders of `tests/support` importable as `support`; signals are as in a terminal."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A shell that puts a command into the background lets it ignore Ctrl-C, and `nohup` SIGHUP, and so does whatever
# it starts. Tests send them.
if threading.current_thread() is threading.main_thread():
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
