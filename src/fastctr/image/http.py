"""HTTP as registries need it, on urllib3: kept connections, time limits, retries, redirects, TLS, proxies.

One `Http` serves one pull or push: `request()` gives an `Answer`, `abort()` wakes every thread that waits in
it. Authorization goes only to the origin it was made for: a redirect to another host, port or scheme loses
it. A connection that cannot be made, breaks or stays silent raises `NetworkError`, after retries where the
request may be repeated.

Loopback hosts and those listed as insecure are asked whether they speak TLS before anything is said to them,
and get plain http if they do not.
"""

from __future__ import annotations

import threading
import time

from .. import __version__
from ..errors import RegistryError
from .connect import (
    NetworkError,
    hint,
    is_loopback,
    origin,
    pool_classes,
    proxy,
    redirected,
    retry_after,
    shut,
    tls_context,
    why,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Answer", "Http", "NetworkError", "Settings", "is_loopback", "origin"]

USER_AGENT = f"fastctr/{__version__}"
BLOCK = 256 << 10  # bytes written at once: what a socket takes without waiting
_RETRIED = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)


class Settings:
    """Limits of one conversation.

    connect, read   seconds to connect, and without a byte from the other side
    attempts        how often a request is sent in all
    backoff         seconds before the second attempt, doubled with each (at most 10)
    retry_after     the longest Retry-After that is waited for, in seconds
    min_rate        bytes per second below which a body is given up, measured over `read` seconds
    redirects       how many are followed
    """

    __slots__ = ("attempts", "backoff", "connect", "min_rate", "read", "redirects", "retry_after")

    def __init__(
        self,
        connect: float = 10.0,
        read: float = 30.0,
        attempts: int = 5,
        backoff: float = 0.25,
        retry_after: float = 60.0,
        min_rate: int = 512,
        redirects: int = 5,
    ) -> None:
        self.connect, self.read, self.attempts = connect, read, max(1, attempts)
        self.backoff, self.retry_after = backoff, retry_after
        self.min_rate, self.redirects = min_rate, redirects


class Answer:
    """A response whose body has not been read: `status`, `headers`, `url` (where it came from in the end)."""

    __slots__ = ("_raw", "_settings", "headers", "status", "url")

    def __init__(self, raw: Any, url: str, settings: Settings) -> None:
        self._raw, self.url, self._settings = raw, url, settings
        self.status: int = raw.status
        self.headers = raw.headers

    @property
    def length(self) -> int | None:
        """Content-Length, or None where the other side does not say."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdigit() else None

    def read1(self, most: int = BLOCK) -> bytes:
        """Some bytes of the body, as soon as there are any; b"" at its end. NetworkError if it is cut."""
        from urllib3.exceptions import HTTPError

        try:
            return self._raw.read1(most, decode_content=False) or b""
        except (HTTPError, OSError, ValueError) as error:
            raise NetworkError(self.url, why(error)) from error

    def read(self, limit: int) -> bytes:
        """The whole body; RegistryError if it is longer than `limit` bytes, NetworkError if it drips."""
        until = time.monotonic() + self._settings.read + limit / max(1, self._settings.min_rate * 1024)
        parts, size = [], 0
        while data := self.read1(min(BLOCK, limit + 1 - size)):
            parts.append(data)
            size += len(data)
            if size > limit:
                self.close()
                raise RegistryError(self.url, f"answers with more than {limit} bytes", status=self.status)
            if time.monotonic() > until:
                self.close()
                raise NetworkError(self.url, "the answer comes too slowly")
        self._raw.release_conn()
        return b"".join(parts)

    def discard(self) -> None:
        """Done with it: a short rest is read so that the connection can be used again, a long one is not."""
        length = self.length
        if length is not None and length <= 65536:
            try:
                self.read(65536)
            except RegistryError:
                self.close()
        else:
            self.close_unless_done()

    def close(self) -> None:
        """Give the connection up."""
        self._raw.close()

    def close_unless_done(self) -> None:
        """Keep the connection if the body was read to its end, else give it up."""
        if not self._raw.isclosed():
            self._raw.close()


class Http:
    """The connections of one pull or push. Threads may share it; close it, or use it in a `with`."""

    def __init__(self, settings: Settings | None = None, insecure: Callable[[str], bool] | None = None) -> None:
        """insecure(host:port) says for which hosts plain http and any certificate will do."""
        self.settings = settings or Settings()
        self._insecure = insecure or (lambda host: False)
        self._pools: dict[tuple[str, str, int], Any] = {}
        self._schemes: dict[str, str] = {}
        self._reached: set[tuple[str, str, int]] = set()  # who has answered before is asked again after a failure
        self._lock = threading.Lock()
        self._live: set[Any] = set()
        self._heads: dict[Any, float] = {}  # connection -> when its response's head must be there
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; nothing of it can be used afterwards."""
        self.abort()
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.clear()
        if self._watch is not None:
            self._watch.join()

    def abort(self) -> None:
        """Make every request under way fail now, from any thread."""
        self._closed.set()
        with self._lock:
            live = list(self._live)
        for connection in live:
            shut(connection)

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond abort(); then NetworkError."""
        if self._closed.wait(seconds):
            raise NetworkError("the transfer", "was given up")

    # ---- where to

    def base(self, host: str) -> str:
        """ "https://host", or "http://host" where a loopback or insecure host does not speak TLS."""
        found = self._schemes.get(host)
        if found is None:
            plain = (is_loopback(host) or self._insecure(host)) and not self._speakstls_context(host)
            found = self._schemes[host] = ("http://" if plain else "https://") + host
        return found

    def _speakstls_context(self, host: str) -> bool:
        """Shake hands and hang up: nothing is said before it is known. True if nobody is there, too."""
        import socket
        import ssl

        _, name, port = origin("https://" + host)
        if not is_loopback(host) and proxy("https", host):
            return True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((name, port), self.settings.connect) as sock:
                sock.settimeout(min(self.settings.read, 5.0))
                with context.wrap_socket(sock, server_hostname=name):
                    return True
        except ssl.SSLError as error:
            # An alert is TLS: such a server wants a certificate or another version.
            return "ALERT" in (error.reason or "")
        except TimeoutError:
            return False
        except OSError:
            # A plain server may just hang up; where https cannot be reached, http decides what to say.
            return not (is_loopback(host) or self._insecure(host))

    def _pool(self, where: tuple[str, str, int]) -> Any:
        with self._lock:
            if self._closed.is_set():
                raise NetworkError(where[1], "the transfer was given up")
            pool = self._pools.get(where)
            if pool is None:
                pool = self._pools[where] = self._make_pool(where)
            return pool

    def _make_pool(self, where: tuple[str, str, int]) -> Any:
        import urllib3

        scheme, name, port = where
        host = f"[{name}]" if ":" in name else name
        full = host if port == (443 if scheme == "https" else 80) else f"{host}:{port}"
        options: dict[str, Any] = {
            "maxsize": 16,
            "timeout": urllib3.Timeout(connect=self.settings.connect, read=self.settings.read),
            "retries": False,
            "blocksize": BLOCK,
        }
        if scheme == "https":
            insecure = is_loopback(host) or self._insecure(full) or self._insecure(f"{host}:{port}")
            options["ssl_context"] = tls_context(full, insecure)
        through = None if is_loopback(host) else proxy(scheme, full)
        if through:
            manager: Any = urllib3.ProxyManager(through, **options)
        else:
            manager = urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = pool_classes(self)
        return manager

    # ---- asking

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        body: Any = None,
        authorization: str | None = None,
        trusted: tuple[str, str, int] | None = None,
        retry: bool = True,
        follow: bool = True,
    ) -> Answer:
        """Send one request and give the answer, whatever its status.

        authorization goes to the origin `trusted` alone (default: that of url). retry: whether it may be
        sent again after a broken connection, 429 or 5xx; body must be bytes or None then. The last answer
        is returned where retrying does not help. NetworkError: no answer. RegistryError: bad redirects.
        """
        sent = {"User-Agent": USER_AGENT, **(headers or {})}
        trusted = trusted or origin(url)
        hops = attempt = 0
        while True:
            attempt += 1
            where = origin(url)
            if authorization and where == trusted:
                sent["Authorization"] = authorization
            else:
                sent.pop("Authorization", None)
            last = not retry or attempt >= self.settings.attempts
            try:
                answer = self._once(method, url, where, sent, body)
            except NetworkError as error:
                if last or self._closed.is_set() or error.final:
                    raise
                self.sleep(self._pause(attempt))
                continue
            self._reached.add(where)
            if answer.status in _RETRIED and not last:
                wait = retry_after(answer.headers.get("Retry-After"))
                answer.discard()
                self.sleep(self._pause(attempt) if wait is None else min(wait, self.settings.retry_after))
                continue
            if follow and answer.status in _REDIRECTS and answer.headers.get("Location"):
                if method not in ("GET", "HEAD") and (answer.status < 307 or not isinstance(body, bytes)):
                    return answer  # what was sent cannot be sent again, or would not be
                hops += 1
                attempt = 0
                if hops > self.settings.redirects:
                    answer.discard()
                    raise RegistryError(url, f"redirects more than {self.settings.redirects} times")
                url = redirected(url, answer.headers["Location"])
                answer.discard()
                continue
            return answer

    def _pause(self, attempt: int) -> float:
        import random

        return min(10.0, self.settings.backoff * 2.0 ** (attempt - 1)) * (0.75 + random.random() / 2)

    def _once(self, method: str, url: str, where: tuple[str, str, int], headers: dict[str, str], body: Any) -> Answer:
        from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

        try:
            raw = self._pool(where).urlopen(
                method,
                url,
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError, ValueError) as error:
            failed = NetworkError(url, why(error), hint(error))
            # Asking again gives the same certificate; and nobody there is a wrong name more often than a moment's lack.
            nobody = isinstance(error, (NewConnectionError, ConnectTimeoutError)) and where not in self._reached
            failed.final = nobody or (isinstance(error, SSLError) and "CERTIFICATE" in str(error))
            raise failed from error
        return Answer(raw, url, self.settings)

    # ---- the watch over answers that never come whole

    def watch(self, connection: Any) -> None:
        """A response's head is awaited on this connection: cut it if it is not there in time."""
        with self._lock:
            self._heads[connection] = time.monotonic() + 2 * self.settings.read
            if self._watch is None:
                self._watch = threading.Thread(target=self._watching, name="fastctr-http", daemon=True)
                self._watch.start()

    def unwatch(self, connection: Any) -> bool:
        """It is there, or never will be. Whether it was cut."""
        with self._lock:
            return self._heads.pop(connection, 0.0) < 0

    def opened(self, connection: Any) -> None:
        with self._lock:
            self._live.add(connection)
        if self._closed.is_set():
            shut(connection)

    def gone(self, connection: Any) -> None:
        self._live.discard(connection)

    def _watching(self) -> None:
        while not self._closed.wait(max(0.05, self.settings.read / 2)):
            now = time.monotonic()
            with self._lock:
                late = [each for each, until in self._heads.items() if until < now]
                self._heads.update(dict.fromkeys(late, -1.0))
            for connection in late:
                shut(connection)
