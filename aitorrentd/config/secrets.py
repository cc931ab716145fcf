"""Step 3, resolve secrets: `{file: PATH}`, `{env: NAME}` and `{credential: NAME}` become text.

A reference may stand wherever text may. Everything that displays a configuration shows the
reference, never the secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aitorrentd.config.drop_ins import is_content
from aitorrentd.setting_path import SettingPath, names_secret
from aitorrentd.system.files import read_regular
from aitorrentd.validation import Problem

HIDDEN: Final = "•••"
_KINDS: Final = ("file", "env", "credential")
_MAX_SECRET_BYTES: Final = 64 * 1024
_VARIABLE: Final = re.compile(
    r"\$\{(?P<braced>[A-Z_][A-Z0-9_]*)(?::?[-?+=][^}]*)?\}|\$(?P<bare>[A-Z_][A-Z0-9_]*)"
)
_TEMPLATE: Final = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|\{\{.*\}\}|<[^<>]*>|%\([^)]*\)s")
"A placeholder that a deployment tool, or a person, was to replace with a secret."


@dataclass(frozen=True, slots=True, repr=False)
class Resolved:
    """A tree with secrets in place of references; never display it."""

    tree: Mapping[str, Any]
    secrets: frozenset[str]
    problems: tuple[Problem, ...]
    "References whose target is missing; their secrets are empty strings in the tree."
    unread: Mapping[SettingPath, bool]
    "The problems that the machine has with reading a file; True: permission was denied."


def resolve(
    tree: Mapping[str, Any], environ: Mapping[str, str], *, is_outside: bool = False
) -> Resolved:
    """`tree` with its references replaced.

    `is_outside` is for inspecting the configuration of a service from another process: what the
    service manager gives only to the service is omitted.
    """
    resolving = _Resolving(environ)
    kept = _without_handed(tree, environ) if is_outside else tree
    resolved = resolving.tree(kept, ())
    return Resolved(
        resolved, frozenset(resolving.secrets), tuple(resolving.problems), resolving.unread
    )


def reference(value: Any) -> tuple[str, str] | None:
    """Kind and name if `value` is a reference to a secret."""
    if isinstance(value, dict) and len(value) == 1:
        (kind, name), *_ = value.items()
        if kind in _KINDS and isinstance(name, str):
            return kind, name
    return None


def conceal(tree: Any, path: SettingPath = ()) -> Any:
    """`tree` for display: references as `••• (file /path)`, secrets written in full as `•••`."""
    if (ref := reference(tree)) is not None:
        return f"{HIDDEN} ({ref[0]} {ref[1]})"
    if isinstance(tree, dict):
        return {k: conceal(v, (*path, k)) for k, v in tree.items()}
    if isinstance(tree, list):
        return [conceal(v, (*path, i)) for i, v in enumerate(tree)]
    if isinstance(tree, str) and tree and names_secret(path):
        return HIDDEN
    return tree


def _without_handed(tree: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(tree, Mapping):
        kept = {k: v for k, v in tree.items() if not _is_handed(v, environ)}
        return {k: _without_handed(v, environ) for k, v in kept.items()}
    if isinstance(tree, list):
        return [_without_handed(v, environ) for v in tree if not _is_handed(v, environ)]
    return tree


def _is_handed(value: Any, environ: Mapping[str, str]) -> bool:
    match reference(value):
        case ("credential", _):
            return not environ.get("CREDENTIALS_DIRECTORY")
        case ("env", name):
            return not environ.get(name)
    return False


@dataclass(slots=True)
class _Resolving:
    environ: Mapping[str, str]
    secrets: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    unread: dict[SettingPath, bool] = field(default_factory=dict)

    def tree(self, tree: Any, path: SettingPath) -> Any:
        if (ref := reference(tree)) is not None:
            try:
                secret = _fetch(*ref, self.environ)
            except (ValueError, _Unread) as e:
                self.problems.append(Problem(path, str(e)))
                if isinstance(e, _Unread):
                    self.unread[path] = e.is_denied
                return ""
            self.secrets.add(secret)
            return secret
        if isinstance(tree, Mapping):
            return {k: self.tree(v, (*path, k)) for k, v in tree.items()}
        if isinstance(tree, list):
            return [self.tree(v, (*path, i)) for i, v in enumerate(tree)]
        if isinstance(tree, str) and tree:
            return self._text(tree, path)
        return tree

    def _text(self, text: str, path: SettingPath) -> str:
        is_secret = names_secret(path)
        if (variable := _VARIABLE.fullmatch(text)) is not None:
            name = variable["braced"] or variable["bare"]
            wrong = f"${name} is not expanded here; write {{env: {name}}}"
        elif is_secret and _TEMPLATE.fullmatch(text):
            wrong = "is a placeholder that was never replaced; write {file: /path/of/the/secret}"
        else:
            if is_secret:
                self.secrets.add(text)
            return text
        self.problems.append(Problem(path, wrong))
        return ""


class _Unread(Exception):
    """The machine cannot read a secret now."""

    def __init__(self, message: str, *, is_denied: bool) -> None:
        super().__init__(message)
        self.is_denied = is_denied


def _fetch(kind: str, name: str, environ: Mapping[str, str]) -> str:
    """The secret; ValueError says why there is none, _Unread why it cannot be read."""
    if kind == "env":
        if not environ.get(name):
            raise ValueError(f"the environment variable {name} is not set, or empty")
        return environ[name]
    if kind == "credential":
        directory = environ.get("CREDENTIALS_DIRECTORY", "")
        if not directory:
            raise ValueError(
                "no credentials were passed; the systemd unit needs "
                f"LoadCredential={name}:/path/to/it"
            )
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not the name of a credential")
        return _read(Path(directory) / name)
    file = Path(os.path.expanduser(name))
    if not file.is_absolute():
        raise ValueError(f"the secret's path {name} must be absolute")
    return _read(file)


def _read(file: Path) -> str:
    try:
        raw = read_regular(file, _MAX_SECRET_BYTES)
        # An editor's byte order mark is not part of the secret.
        secret = raw.decode("utf-8-sig").strip("\r\n")
    except OSError as e:
        text = f"cannot read the secret in {file}: {e.strerror}"
        if is_content(e):
            raise ValueError(text) from None
        is_denied = isinstance(e, PermissionError)
        if is_denied:
            text += "; the user that runs the daemon must be able to read it"
        raise _Unread(text, is_denied=is_denied) from None
    except UnicodeDecodeError:
        raise ValueError(f"the secret in {file} is not UTF-8 text") from None
    if not secret.strip() or len(raw) > _MAX_SECRET_BYTES:
        raise ValueError(f"the secret in {file} is empty, or longer than {_MAX_SECRET_BYTES} bytes")
    if "\0" in secret:
        raise ValueError(f"the secret in {file} has a NUL character; write it as plain text")
    return secret
