"""Who we are to a registry: the challenges of a 401 answer, Basic and Bearer, and tokens kept until they end.

Bearer follows the token authentication of the distribution project: GET on the challenge's realm with the
user and password, if there are any, or POST with grant_type=refresh_token where the credentials are an
identity token. Nothing is sent before a registry asks, so that anonymous use costs no question.
"""

from __future__ import annotations

import threading
import time

from ..errors import AuthError, RegistryError, shown
from .connect import is_loopback, origin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .credentials import Credentials
    from .http import Http

__all__ = ["Authenticator", "parse_challenges", "pull_scope", "push_scope"]

_TOKEN_LIMIT = 1 << 20  # bytes of a token endpoint's answer
_LEEWAY = 5.0  # seconds a token is given up before its end
_SEPARATORS = frozenset(' \t",=')


def pull_scope(name: str) -> str:
    """The scope to read the repository `name`."""
    return f"repository:{name}:pull"


def push_scope(name: str) -> str:
    """The scope to read and write the repository `name`."""
    return f"repository:{name}:pull,push"


def _word(text: str, at: int) -> tuple[str, int]:
    """A token or a quoted string at `at`, and where it ends."""
    if at < len(text) and text[at] == '"':
        out = []
        at += 1
        while at < len(text) and text[at] != '"':
            if text[at] == "\\" and at + 1 < len(text):
                at += 1
            out.append(text[at])
            at += 1
        return "".join(out), at + 1
    start = at
    while at < len(text) and text[at] not in _SEPARATORS:
        at += 1
    return text[start:at], at


def parse_challenges(lines: list[str]) -> list[tuple[str, dict[str, str]]]:
    """The challenges of WWW-Authenticate headers (RFC 9110, 11.6.1): scheme in lower case and parameters."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in lines:
        text, at = line[:8192], 0
        while at < len(text):
            if text[at] in " \t,":
                at += 1
                continue
            word, end = _word(text, at)
            if end == at:  # a stray separator
                at += 1
                continue
            after = end
            while after < len(text) and text[after] in " \t":
                after += 1
            if after < len(text) and text[after] == "=" and found:
                after += 1
                while after < len(text) and text[after] in " \t":
                    after += 1
                value, at = _word(text, after)
                found[-1][1].setdefault(word.lower(), value)
            else:
                found.append((word.lower(), {}))
                at = end
    return found


class Authenticator:
    """The Authorization headers for one registry. Threads may share it."""

    def __init__(self, http: Http, host: str, find: Callable[[], tuple[Credentials | None, str]]) -> None:
        """find() is called at the first challenge: the credentials or None, and what kept them from being found."""
        self._http, self._host, self._find = http, host, find
        self._found: tuple[Credentials | None, str] | None = None
        self._basic: str | None = None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._lock = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """What to send for these scopes as far as it is known, or None."""
        kept = self._tokens.get(scopes)
        if kept is not None and kept[1] > time.monotonic():
            return kept[0]
        return self._basic

    def credentials(self) -> tuple[Credentials | None, str]:
        if self._found is None:
            self._found = self._find()
        return self._found

    def answer(self, url: str, headers: Any, scopes: tuple[str, ...], sent: str | None) -> str:
        """The header that answers a 401 from `url` to a request that carried `sent`.

        AuthError: there are no credentials that would do, or those sent were refused.
        """
        with self._lock:
            known = self.header(scopes)
            if known is not None and known != sent:
                return known  # another thread has been asked the same
            challenges = parse_challenges(headers.getlist("WWW-Authenticate"))
            for scheme, given in challenges:
                if scheme == "bearer" and given.get("realm"):
                    return self._bearer(url, given, scopes)
            for scheme, _ in challenges:
                if scheme == "basic":
                    return self._use_basic(url, sent)
            what = ", ".join(shown(scheme) for scheme, _ in challenges) or "nothing"
            raise AuthError(url, f"wants another kind of authentication than Basic and Bearer: {what}", status=401)

    def refused(self, url: str, status: int, why: str = "") -> AuthError:
        """The error for an answer that says no to what we are."""
        credentials, note = self.credentials()
        if credentials is None:
            said = "wants credentials" if status == 401 else "is denied without credentials"
            hint = note or f"see fastctr login {self._host}, or check the name"
        else:
            who = f'"{credentials.username}"' if credentials.username else "this identity token"
            said = f"is denied to {who}" if status == 403 else f"does not let {who} in"
            hint = note
        return AuthError(url, said + (f": {why}" if why else ""), hint, status=status)

    def _use_basic(self, url: str, sent: str | None) -> str:
        credentials, _ = self.credentials()
        if credentials is None or not credentials.password or sent is not None:
            raise self.refused(url, 401)
        self._basic = credentials.basic()
        return self._basic

    def _bearer(self, url: str, given: dict[str, str], scopes: tuple[str, ...]) -> str:
        realm = given["realm"]
        self.check_realm(url, realm)
        wanted = scopes or ((given["scope"],) if given.get("scope") else ())
        reply = self.fetch_token(realm, given.get("service", ""), wanted)
        token = reply.get("token") or reply.get("access_token")
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise AuthError(realm, "answers without a token")
        lasts = reply.get("expires_in")
        seconds = float(lasts) if isinstance(lasts, (int, float)) and 0 < lasts < 10**7 else 60.0
        header = "Bearer " + token
        self._tokens[scopes] = header, time.monotonic() + max(1.0, seconds - _LEEWAY)
        return header

    def check_realm(self, url: str, realm: str) -> None:
        """AuthError if a registry that was reached by https wants tokens to be fetched in clear."""
        scheme, host, _ = origin(realm)
        if scheme == "http" and url.startswith("https:") and not is_loopback(f"[{host}]" if ":" in host else host):
            raise AuthError(url, f"sends credentials in clear to {shown(realm)}", "its realm must be an https URL")

    def fetch_token(self, realm: str, service: str, scopes: tuple[str, ...], offline: bool = False) -> dict[str, Any]:
        """The token endpoint's JSON object; AuthError if it refuses. offline asks for an identity token too."""
        from urllib.parse import urlencode

        credentials, _ = self.credentials()
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "scope": " ".join(scopes),
                "client_id": "fastctr",
                "refresh_token": credentials.identity_token,
            }
            answer = self._http.request(
                "POST",
                realm,
                {"Content-Type": "application/x-www-form-urlencoded"},
                body=urlencode(form).encode(),
            )
        else:
            pairs = [("service", service)] if service else []
            pairs += [("scope", scope) for scope in scopes]
            basic = None
            if credentials is not None:
                basic = credentials.basic()
                pairs.append(("account", credentials.username))
            if offline:
                pairs += [("offline_token", "true"), ("client_id", "fastctr")]
            url = realm + ("&" if "?" in realm else "?") + urlencode(pairs)
            answer = self._http.request("GET", url, authorization=basic)
        body = answer.read(_TOKEN_LIMIT)
        if answer.status in (400, 401, 403):
            raise self.refused(realm, 401 if answer.status == 400 else answer.status)
        if answer.status != 200:
            raise RegistryError(realm, f"answers {answer.status} when asked for a token", status=answer.status)
        import json

        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise AuthError(realm, "answers with something that is not a token")
        return reply
