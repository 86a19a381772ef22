"""Credentials as Docker and podman keep them: config.json, credential helpers, auth.json.

Places, in this order: `config.json` in DOCKER_CONFIG or ~/.docker (its credHelpers for the host, then its
credsStore, then its auths), REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json and
~/.config/containers/auth.json. A helper is the program docker-credential-NAME, asked by the protocol of the
docker-credential-helpers project. What `login` writes, `docker` and `podman` find, and the other way round.
"""

from __future__ import annotations

import os

from ..errors import AuthError, ImageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Credentials", "erase", "find", "parse_auth", "store"]

_HUB = "https://index.docker.io/v1/"  # the key Docker gives its own registry
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")
_CONFIG_LIMIT = 4 << 20
_HELPER_SECONDS = 60


class Credentials:
    """A user and password, or an identity token (an OAuth2 refresh token). Neither is shown by repr()."""

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str = "", password: str = "", identity_token: str = "") -> None:
        self.username, self.password, self.identity_token = username, password, identity_token

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"

    def basic(self) -> str:
        """The Authorization header of the Basic scheme (RFC 7617)."""
        return "Basic " + _base64(f"{self.username}:{self.password}")


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode()).decode()


def parse_auth(auth: object) -> Credentials | None:
    """What fastctr.images takes as auth=: Credentials, (user, password), "user:password", a mapping, None."""
    if auth is None or isinstance(auth, Credentials):
        return auth
    if isinstance(auth, str) and ":" in auth:
        user, _, password = auth.partition(":")
        return Credentials(user, password)
    if isinstance(auth, (tuple, list)) and len(auth) == 2:
        return Credentials(str(auth[0]), str(auth[1]))
    if isinstance(auth, dict):
        # the Engine API's AuthConfig, or plain words
        words = {str(k).lower().replace("_", ""): str(v) for k, v in auth.items() if v is not None}
        return Credentials(words.get("username", ""), words.get("password", ""), words.get("identitytoken", ""))
    raise AuthError("auth", "must be (user, password), a mapping with username and password, or Credentials")


# ---- files


def config_path() -> str:
    """Docker's config.json: in DOCKER_CONFIG, else in ~/.docker."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(folder, "config.json")


def _podman_paths() -> list[str]:
    paths = [os.environ.get("REGISTRY_AUTH_FILE", "")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    paths.append(os.path.join(runtime, "containers/auth.json") if runtime else "")
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    paths.append(os.path.join(base, "containers/auth.json"))
    return [path for path in paths if path]


def _load(path: str) -> dict[str, Any]:
    import json

    try:
        with open(path, "rb") as file:
            data = file.read(_CONFIG_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror}") from error
    try:
        found = json.loads(data) if data.strip() else {}
    except ValueError as error:
        raise ImageError(path, f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ImageError(path, "must hold a JSON object")
    return found


def _save(path: str, config: dict[str, Any]) -> None:
    """Replace the file as a whole, readable by its owner alone."""
    import json
    import tempfile

    target = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=".config-", dir=os.path.dirname(target))  # mode 0600
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(config, file, indent="\t")
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ImageError(path, f"cannot be written: {error.strerror}") from error


class _Locked:
    """The folder of config.json, locked against others who change it."""

    def __init__(self, path: str) -> None:
        self._folder = os.path.dirname(os.path.realpath(path))

    def __enter__(self) -> None:
        import fcntl

        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(self._folder, f"cannot be opened: {error.strerror}") from error
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


# ---- keys


def _key(host: str) -> str:
    """The name Docker writes for a registry."""
    return _HUB if host in _HUB_HOSTS else host


def _split(key: str) -> tuple[str, str]:
    """Host and repository prefix of a key in auths: "https://host/v1/" -> (host, ""), "host/ns" -> (host, "ns")."""
    scheme, mark, rest = key.partition("://")
    host, _, path = (rest if mark else scheme).partition("/")
    path = path.strip("/")
    return host, "" if mark or path in ("v1", "v2") else path


def _matching(keys: Any, host: str, repository: str) -> list[str]:
    """The keys that speak of this registry, those with the longest repository prefix first."""
    names = _HUB_HOSTS if host in _HUB_HOSTS else (host,)
    found = []
    for key in keys:
        where, prefix = _split(key)
        if where in names and (not prefix or repository == prefix or repository.startswith(prefix + "/")):
            found.append((-len(prefix), key != _key(host), key))
    return [key for _, _, key in sorted(found)]


def _entry(entry: object) -> Credentials | None:
    """One entry of auths."""
    from base64 import b64decode

    if not isinstance(entry, dict):
        return None
    user, password = entry.get("username") or "", entry.get("password") or ""
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            user, _, password = b64decode(entry["auth"]).decode().rstrip("\0").partition(":")
        except ValueError:
            return None
    token = entry.get("identitytoken") or ""
    return Credentials(str(user), str(password), str(token)) if token or (user and password) else None


# ---- helpers


def _helper(config: dict[str, Any], host: str) -> str:
    """The name of the helper for this host, or ""."""
    helpers = config.get("credHelpers")
    if isinstance(helpers, dict):
        for key in _matching(helpers, host, ""):
            if isinstance(helpers[key], str):
                return str(helpers[key])
    found = config.get("credsStore")
    return found if isinstance(found, str) else ""


def _ask(helper: str, verb: str, text: str) -> bytes:
    """Run docker-credential-HELPER; AuthError with what it said if it fails."""
    import subprocess

    program = f"docker-credential-{helper}"
    if "/" in helper or "\0" in helper:
        raise AuthError(shown(program), "is not the name of a program")
    try:
        done = subprocess.run([program, verb], input=text.encode(), capture_output=True, timeout=_HELPER_SECONDS)
    except FileNotFoundError:
        raise AuthError(program, "is not installed", "config.json names it as the credentials' helper") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AuthError(program, f"fails: {error}") from error
    if done.returncode != 0:
        said = (done.stdout or done.stderr).decode(errors="replace").strip()
        raise AuthError(program, f"{verb} fails: {shown(said, 200)}")
    return done.stdout


def _from_helper(helper: str, key: str) -> Credentials | None:
    import json

    try:
        reply = json.loads(_ask(helper, "get", key))
    except ValueError:
        raise AuthError(f"docker-credential-{helper}", "answers with something that is not JSON") from None
    if not isinstance(reply, dict):
        return None
    user, secret = str(reply.get("Username") or ""), str(reply.get("Secret") or "")
    if user == "<token>":
        return Credentials(identity_token=secret) if secret else None
    return Credentials(user, secret) if user and secret else None


# ---- what others call


def find(host: str, repository: str = "") -> tuple[Credentials | None, str]:
    """The credentials for a registry ("docker.io", "host:5000") and a repository in it.

    Returns them or None, and a note on what kept them from being found: a helper that is missing or fails
    must not be in the way of what anybody may read. ImageError: a file that is not as it should be.
    """
    config = _load(config_path())
    note = ""
    helper = _helper(config, host)
    if helper:
        try:
            found = _from_helper(helper, _key(host))
            if found is not None:
                return found, ""
        except AuthError as error:
            note = "" if "credentials not found" in error.why else str(error)
    for path in ("", *_podman_paths()):
        auths = (_load(path) if path else config).get("auths")
        if not isinstance(auths, dict):
            continue
        for key in _matching(auths, host, repository):
            found = _entry(auths[key])
            if found is not None:
                return found, ""
    return None, note


def store(host: str, credentials: Credentials) -> str:
    """Keep credentials for a registry where Docker does. Returns a warning to show, or "".

    AuthError: the helper fails. ImageError: the file cannot be written.
    """
    import json

    path, key = config_path(), _key(host)
    with _Locked(path):
        config = _load(path)
        auths = config.get("auths")
        auths = config["auths"] = auths if isinstance(auths, dict) else {}
        helper = _helper(config, host)
        warning = ""
        if helper:
            user = "<token>" if credentials.identity_token else credentials.username
            secret = credentials.identity_token or credentials.password
            _ask(helper, "store", json.dumps({"ServerURL": key, "Username": user, "Secret": secret}))
            auths[key] = {}
        else:
            if credentials.identity_token:
                name = f"{credentials.username}:"
                auths[key] = {"auth": _base64(name), "identitytoken": credentials.identity_token}
            else:
                auths[key] = {"auth": _base64(f"{credentials.username}:{credentials.password}")}
            warning = f"the password is kept in clear in {path}; a credential helper (credsStore) would not"
        _save(path, config)
    return warning


def erase(host: str) -> bool:
    """Forget the credentials for a registry; whether there were any."""
    path = config_path()
    with _Locked(path):
        config = _load(path)
        helper = _helper(config, host)
        gone = False
        if helper:
            try:
                _ask(helper, "erase", _key(host))
                gone = True
            except AuthError as error:
                if "credentials not found" not in error.why:
                    raise
        auths = config.get("auths")
        if isinstance(auths, dict):
            keys = [key for key in _matching(auths, host, "") if not _split(key)[1]]
            for key in keys:
                del auths[key]
            if keys:
                gone = True
                _save(path, config)
    return gone
