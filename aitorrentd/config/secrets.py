"""Secrets by reference: `{file: PATH}`, `{env: NAME}`, `{credential: NAME}`.

A reference may stand wherever a text may stand. It is resolved when the configuration is loaded,
and everything that shows a configuration shows the reference, never the secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.documents import key_text
from aitorrentd.errors import ConfigError

HIDDEN: Final = "•••"
_KINDS: Final = ("file", "env", "credential")
_MAX_SECRET_BYTES: Final = 64 * 1024
_SECRET_KEY: Final = re.compile(
    r"(?:^|_)(?:psk|token|password|passphrase|secret|api_?key)s?$", re.I
)


def reference(value: Any) -> tuple[str, str] | None:
    """Kind and name when `value` is a reference to a secret."""
    if isinstance(value, dict) and len(value) == 1:
        (kind, name), *_ = value.items()
        if kind in _KINDS and isinstance(name, str):
            return kind, name
    return None


def without_handed(tree: Any, environ: Mapping[str, str]) -> Any:
    """`tree` without the references to what a service manager hands to the daemon and not to us.

    For looking at a configuration from outside of the service.
    """
    if isinstance(tree, dict):
        kept = {k: v for k, v in tree.items() if not _is_handed(v, environ)}
        return {k: without_handed(v, environ) for k, v in kept.items()}
    if isinstance(tree, list):
        return [without_handed(v, environ) for v in tree if not _is_handed(v, environ)]
    return tree


def _is_handed(value: Any, environ: Mapping[str, str]) -> bool:
    match reference(value):
        case ("credential", _):
            return not environ.get("CREDENTIALS_DIRECTORY")
        case ("env", name):
            return not environ.get(name)
    return False


def resolve(
    tree: Any,
    environ: Mapping[str, str],
    found: set[str],
    wrong: list[str],
    path: tuple[str, ...] = (),
) -> Any:
    """`tree` with its references replaced by the secrets, which are also added to `found`.

    A secret that is not there, empty or unreadable becomes an empty text, and a line of `wrong`.
    """
    if (ref := reference(tree)) is not None:
        try:
            secret = _fetch(*ref, environ, path)
        except ConfigError as e:
            wrong.append(e.message)
            return ""
        found.add(secret)
        return secret
    if isinstance(tree, dict):
        return {k: resolve(v, environ, found, wrong, (*path, k)) for k, v in tree.items()}
    if isinstance(tree, list):
        return [resolve(v, environ, found, wrong, (*path, str(i))) for i, v in enumerate(tree)]
    if isinstance(tree, str) and tree and path and _names_secret(path):
        found.add(tree)
    return tree


def conceal(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """`tree` for people: references as `••• (file /path)`, secrets written in full as `•••`."""
    if (ref := reference(tree)) is not None:
        return f"{HIDDEN} ({ref[0]} {ref[1]})"
    if isinstance(tree, dict):
        return {k: conceal(v, (*path, k)) for k, v in tree.items()}
    if isinstance(tree, list):
        return [conceal(v, (*path, str(i))) for i, v in enumerate(tree)]
    if isinstance(tree, str) and tree and path and _names_secret(path):
        return HIDDEN
    return tree


def _names_secret(path: tuple[str, ...]) -> bool:
    named = [part for part in path if not part.isdecimal()]
    return bool(named) and _SECRET_KEY.search(named[-1]) is not None


def _fetch(kind: str, name: str, environ: Mapping[str, str], path: tuple[str, ...]) -> str:
    where = key_text(path)
    if kind == "env":
        if not environ.get(name):
            raise ConfigError(f"{where}: the environment variable {name} is not set")
        return environ[name]
    if kind == "credential":
        directory = environ.get("CREDENTIALS_DIRECTORY", "")
        if not directory:
            raise ConfigError(
                f"{where}: there are no credentials; the systemd unit needs "
                f"LoadCredential={name}:/path/to/it"
            )
        if "/" in name or name in ("", ".", ".."):
            raise ConfigError(f"{where}: {name!r} is not the name of a credential")
        file = Path(directory) / name
    else:
        file = Path(os.path.expanduser(name))
        if not file.is_absolute():
            raise ConfigError(f"{where}: the path {name} of the secret must be absolute")
    return _read(file, where)


def _read(file: Path, where: str) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_SECRET_BYTES + 1)
        secret = raw.decode().strip("\r\n")
    except OSError as e:
        raise ConfigError(f"{where}: cannot read the secret in {file}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: the secret in {file} is not UTF-8 text") from None
    if not secret or len(raw) > _MAX_SECRET_BYTES:
        raise ConfigError(f"{where}: the secret in {file} is empty or over {_MAX_SECRET_BYTES} B")
    return secret
