"""What connections to registries are made of: names of hosts, certificates, proxies, pools, and why one failed.

Certificates: those the system trusts, and for a host the files `*.crt` (authorities) and `*.cert` with
`*.key` (ours) in the folder named as the host in one of `CERTS`, as Docker and podman have them. Proxies:
http_proxy, https_proxy, all_proxy and no_proxy of the environment.
"""

from __future__ import annotations

import os
import time

from ..errors import RegistryError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any, Protocol

    class Watcher(Protocol):
        def opened(self, connection: Any) -> None: ...
        def gone(self, connection: Any) -> None: ...
        def watch(self, connection: Any) -> None: ...
        def unwatch(self, connection: Any) -> bool: ...


CERTS = ("/etc/docker/certs.d", "/etc/containers/certs.d", "~/.config/docker/certs.d", "~/.config/containers/certs.d")


class NetworkError(RegistryError):
    """No whole answer came: not connected, cut, silent for too long or too slow. `status` is None."""

    final = False  # whether another attempt would end the same way


def is_loopback(host: str) -> bool:
    """Whether `host` (with or without a port) is this machine by its name: 127.0.0.0/8, ::1, localhost."""
    name = host.rpartition("@")[2]
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.lower()
    if name in ("localhost", "::1") or name.endswith(".localhost"):
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(p.isdigit() and int(p) < 256 for p in parts)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http or https URL; RegistryError for any other."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RegistryError(shown(url), "is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise RegistryError(shown(url), "is not an http or https URL")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def pool_classes(http: Watcher) -> dict[str, Any]:
    """urllib3's pools with connections that tell `http` of themselves."""
    from urllib3 import connection, connectionpool

    def watched(base: Any) -> Any:
        class Connection(base):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                self.is_verified = True  # or need not be: no warning of what the settings say
                http.opened(self)

            def getresponse(self) -> Any:
                http.watch(self)
                try:
                    return super().getresponse()
                finally:
                    if http.unwatch(self):  # the head was cut short: to http.client that is its end
                        raise TimeoutError("the head of the answer takes too long")

            def close(self) -> None:
                http.gone(self)
                super().close()

        return Connection

    plain = type(
        "Plain",
        (connectionpool.HTTPConnectionPool,),
        {"ConnectionCls": watched(connection.HTTPConnection)},
    )
    secure = type(
        "Secure",
        (connectionpool.HTTPSConnectionPool,),
        {"ConnectionCls": watched(connection.HTTPSConnection)},
    )
    return {"http": plain, "https": secure}


def shut(connection: Any) -> None:
    import socket

    sock = getattr(connection, "sock", None)
    if sock is not None:
        try:
            # Not sock.shutdown(): on a TLS socket that would touch state another thread is using.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            pass


def tls_context(host: str, insecure: bool) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context() if not insecure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for base in CERTS if "/" not in host and not host.startswith(".") else ():
        folder = os.path.join(os.path.expanduser(base), host)
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, path[:-5] + ".key")
            except OSError as error:  # ssl.SSLError among them
                raise RegistryError(path, f"cannot be used as a certificate: {error}") from error
    return context


def proxy(scheme: str, host: str) -> str | None:
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    proxies = getproxies_environment()
    found = proxies.get(scheme) or proxies.get("all")
    if not found or proxy_bypass_environment(host, proxies):
        return None
    return found if "://" in found else "http://" + found


def redirected(url: str, location: str) -> str:
    from urllib.parse import urljoin

    try:
        target = urljoin(url, location)
    except ValueError:
        raise RegistryError(url, f"redirects to {shown(location)}, which is not a URL") from None
    scheme, host, _ = origin(target)
    if scheme == "http" and url.startswith("https:") and not is_loopback(f"[{host}]" if ":" in host else host):
        raise RegistryError(url, f"redirects from https to {shown(target)}, which anybody on the way could change")
    return target


def retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); None if it is neither."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(min(int(text.strip()[:9]), 10**6))
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def why(error: BaseException) -> str:
    """What happened, without the object addresses urllib3 puts in."""
    from urllib3 import exceptions

    cause: BaseException = error
    while isinstance(cause, exceptions.ProxyError):
        cause = cause.original_error
    if isinstance(cause, (exceptions.ConnectTimeoutError, TimeoutError)) and not isinstance(
        cause, exceptions.NewConnectionError
    ):
        return "cannot be reached: no answer in time"
    if isinstance(cause, exceptions.ReadTimeoutError):
        return "is silent for too long"
    if isinstance(cause, exceptions.NameResolutionError):
        return "has a host name that cannot be resolved"
    if isinstance(cause, exceptions.NewConnectionError):
        inner = cause.__cause__ or cause.__context__
        return f"cannot be reached: {inner.strerror or inner}" if isinstance(inner, OSError) else "cannot be reached"
    if isinstance(cause, exceptions.SSLError):
        return f"TLS fails: {cause.args[0] if cause.args else cause}"
    inner = cause.args[1] if isinstance(cause, exceptions.ProtocolError) and len(cause.args) > 1 else cause
    if isinstance(inner, OSError) and inner.strerror:
        return f"the connection broke: {inner.strerror}"
    return f"the connection broke: {shown(str(inner) or type(inner).__name__, 200)}"


def hint(error: BaseException) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "put its authority into /etc/docker/certs.d/<host>/ca.crt, or list the host as insecure"
    if "WRONG_VERSION" in str(error) or "record layer failure" in str(error):
        return "it does not speak TLS: list the host as insecure to use plain http"
    return ""
