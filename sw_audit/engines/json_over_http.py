"""A server that answers JSON over HTTP: asked at one address, never followed elsewhere, and waited for so long.

Written on the standard library's `http.client`, which follows no redirect and reads no proxy from the environment.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sw_audit.errors import EngineError, PolicyError
from sw_audit.printable import printable

_MOST_BYTES = 1 << 28
"""Of one answer: ten times that of a window of 2,048 tokens with 200 log-probabilities each."""
_QUOTED = 300
"""Characters of a server's own message that are shown."""
_READ_AT_ONCE = 1 << 20
_PAUSE = 0.25
_LOADING = 503


class RefusedError(EngineError):
    """A server that answers that it does not do what it was asked.

    Args:
        asked: See `InputError`.
        found: Likewise.
        remedy: Likewise.
        status: The HTTP status, 400 or more.
        words: The server's own message, shortened, printable and without the key.
    """

    def __init__(self, asked: str, found: str, remedy: str, status: int = 400, words: str = "") -> None:
        super().__init__(asked, found, remedy)
        self.status, self.words = status, words

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Any, ...]]:
        """Everything in, everything out, so that the error crosses process borders whole."""
        return type(self), (self.asked, self.found, self.remedy, self.status, self.words)


class _SocketConnection(HTTPConnection):
    """HTTP over a Unix socket, which is a file."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """See `HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class JsonServer:
    """A server at one address, asked one question at a time over one connection.

    Args:
        asked: The model that it is asked for, as errors begin.
        url: Where it answers, such as `http://127.0.0.1:8000/v1`.
        timeout: Seconds that an answer may take, from the question to its last byte.
        key: Sent as a bearer token, and shown in no message; empty sends none.
        path: Path of a Unix socket that stands in for the address's host and port.
    """

    def __init__(self, asked: str, url: str, timeout: float, *, key: str = "", path: Path | None = None) -> None:
        self.asked, self.timeout = asked, timeout
        address = split_url(url)
        self._base = address.path.rstrip("/")
        self._key = key
        self._connection: HTTPConnection
        if path is not None:
            self._connection = _SocketConnection(path, timeout)
        elif address.scheme == "https":
            context = ssl.create_default_context()
            self._connection = HTTPSConnection(
                address.hostname or "", address.port, timeout=timeout, context=context
            )
        else:
            self._connection = HTTPConnection(address.hostname or "", address.port, timeout=timeout)

    def get(self, path: str, *, beside: bool = False) -> dict[str, Any]:
        """Ask for a path below the address, or beside its last part; see `post`."""
        return self._ask("GET", path, beside, None)

    def post(self, path: str, question: Mapping[str, Any], *, beside: bool = False) -> dict[str, Any]:
        """Send JSON to a path below the address, or beside its last part.

        Raises:
            RefusedError: If the server says by its status that it does not do this.
            EngineError: If it does not answer in time, answers with what is no JSON object, or points elsewhere.
        """
        return self._ask("POST", path, beside, json.dumps(question).encode())

    def wait(self, path: str) -> dict[str, Any]:
        """Ask for a path until a server that is still loading its model answers; see `post`."""
        until = time.monotonic() + self.timeout
        while True:
            try:
                return self.get(path)
            except RefusedError as error:
                if error.status != _LOADING or time.monotonic() + _PAUSE > until:
                    raise
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def fail(self, found: str, remedy: str) -> EngineError:
        """Make the error for something that this server does."""
        return EngineError(self.asked, self._hide(found), remedy)

    def _ask(self, method: str, path: str, beside: bool, body: bytes | None) -> dict[str, Any]:
        target = (self._base.rpartition("/")[0] if beside else self._base) + path
        kept_open = self._connection.sock is not None
        with self._telling_errors():
            try:
                status, content = self._exchange(method, target, body)
            except (ConnectionError, HTTPException):
                # It may have closed meanwhile what was kept open; no question changes anything there.
                if not kept_open:
                    raise
                status, content = self._exchange(method, target, body)
        if status >= 400:
            words = self._hide(printable(" ".join(_find_words(content).split()), _QUOTED))
            found = f"the server answers {path} with status {status}" + (f": {words}" if words else "")
            raise RefusedError(self.asked, found, _advise(status), status, words)
        return self._parse(path, content)

    def _exchange(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        with self._limited():
            self._connection.request(method, target, body, headers)
            response = self._connection.getresponse()
            if 300 <= response.status < 400:
                raise self.fail(
                    f"the server points to another address (status {response.status}), which is not followed",
                    "give the address that answers itself",
                )
            return response.status, self._read_whole(response)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """End an exchange that takes too long as a whole; a socket's own limit is one for each piece of it."""
        connection, late = self._connection, threading.Event()

        def cut_off() -> None:
            late.set()
            if link is not None:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)

        link = None
        try:
            if connection.sock is None:
                connection.connect()
            link = connection.sock
            timer = threading.Timer(self.timeout, cut_off)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
            if late.is_set():
                raise TimeoutError
        except BaseException as error:
            connection.close()  # what is left in it is the rest of another answer
            if late.is_set() and isinstance(error, Exception):
                raise TimeoutError from error
            raise

    def _read_whole(self, response: HTTPResponse) -> bytes:
        parts, size = [], 0
        while part := response.read(_READ_AT_ONCE):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise self.fail(f"its answer is longer than {_MOST_BYTES} bytes", "ask for fewer `top_tokens`")
        if response.length:  # what the server said would still come
            raise self.fail(f"its answer breaks off after {size} bytes", "see what the server's log says")
        return b"".join(parts)

    def _parse(self, path: str, content: bytes) -> dict[str, Any]:
        remedy = "correct `url`: it is the address that ends in /v1, of a server that speaks OpenAI's API"
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self.fail(f"its answer to {path}, {len(content)} bytes, is no whole JSON", remedy) from error
        if not isinstance(answer, dict):
            raise self.fail(f"its answer to {path} is no JSON object", remedy)
        return answer

    @contextmanager
    def _telling_errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            found = f"the server does not answer within {self.timeout:g} seconds"
            raise self.fail(found, "set a longer `timeout`, or see why it is slow") from error
        except ssl.SSLError as error:
            found = f"no secure connection to the server: {error.reason or error}"
            raise self.fail(found, "correct `url` or the server's certificate") from error
        except OSError as error:
            found = f"no server answers there: {error.strerror or error}"
            raise self.fail(found, "start it, or correct `url`") from error
        except HTTPException as error:
            found = f"the server breaks off, or its answer is no HTTP ({type(error).__name__})"
            raise self.fail(found, "correct `url`, or see what the server's log says") from error

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def split_url(url: str) -> SplitResult:
    """Take a server's address apart.

    Raises:
        PolicyError: If it is none that can be asked, or holds what belongs into no policy; what may be a password
            is not quoted.
    """
    remedy = "write it as http://127.0.0.1:8000/v1"
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError as error:
        raise PolicyError("`url`", f"this is no address: {error}", remedy) from error
    if address.username is not None or address.password is not None or address.query or address.fragment:
        found = "an address with a user, a password, a query or a fragment"
        raise PolicyError("`url`", found, "leave them out, and name the variable of the key by `key_variable`")
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        raise PolicyError(f"url {url!r:.100}", "this is no address of a server", remedy)
    if not (url.isascii() and url.isprintable() and " " not in url):
        raise PolicyError(f"url {url!r:.100}", "it has characters that no address has", remedy)
    return address


def _find_words(content: bytes) -> str:
    """Find what an answer with an error says, in the forms that servers have for it."""
    text = content[: 1 << 16].decode(errors="replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    return said if isinstance(said, str) else text


def _advise(status: int) -> str:
    if status in (401, 403):
        return "name the environment variable that holds the server's key by `key_variable`"
    if status == 404:
        return "correct `url`: it is the address that ends in /v1"
    if status >= 500:
        return "see what the server's log says"
    return "ask for what it does, or serve the model with vLLM or llama.cpp's server"
