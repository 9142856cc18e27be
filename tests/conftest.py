"""Makes the shared builders of `tests/support` importable as `support`, and Ctrl-C what it is in a terminal."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A shell that puts a command into the background lets it ignore Ctrl-C, and whatever it starts. Tests send it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
