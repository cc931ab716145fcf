"""Removes from text what must not leave the machine: secrets, prompts, peer identities.

Known secrets are redacted wherever they occur. The rest is recognised by its form, which errs on
the side of redacting too much: a bug report without an address is still a bug report.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from aitorrentd.config.secrets import HIDDEN, conceal
from aitorrentd.runtime.logs import Redactor

_QUOTED: Final = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_WHOLE: Final = HIDDEN
_VALUE: Final = rf"\g<1>{HIDDEN}"

_FORMS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # A node's key as `aitorrentd.runtime.identity` writes it, and keys of other programs.
    (re.compile(r"aitorrentd-ed25519-1 \S+(?: \S+)?"), _WHOLE),
    (re.compile(r"-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)", re.S), _WHOLE),
    (re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*)[^\r\n]+"), _VALUE),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{6,}"), _VALUE),
    (re.compile(r"\b(?:sk|pk|rk|hf|ghp|gho|glpat|xox[abp])[-_][\w-]{8,}"), _WHOLE),
    (
        re.compile(
            r"(?i)((?:^|[^a-z])(?:psk|token|password|passphrase|secret|api[_-]?key)s?"
            rf"[\"']?\s*[:=]\s*)(?:{_QUOTED}|[^\s,;}}\]&]+)",
            re.M,
        ),
        _VALUE,
    ),
    (re.compile(r"(\w://)[^\s/@]+@"), rf"\g<1>{HIDDEN}@"),
    # Prompts and answers.
    (
        re.compile(
            r"(?i)\b((?:prompt|content|message|messages|response|text)[\"']?\s*[:=]\s*)"
            rf"(?:{_QUOTED}|\[[^\]]*\])"
        ),
        _VALUE,
    ),
    # Names of peers and of machines. A peer id keeps its end, as everywhere in the program.
    (re.compile(r"\b12D3Koo\w{37}(\w{8})\b"), r"…\1"),
    (re.compile(r"(/dns(?:4|6|addr)?/)[^/\s]+"), r"\1…"),
    (re.compile(r"(/home/)[^/\s\"']+"), r"\1…"),
    # Seeds, digests, session ids: runs longer than any word.
    (re.compile(r"\b(?=[\w+=-]*\d)([0-9A-Za-z+]{6})[0-9A-Za-z+=_-]{34,}"), r"\1…"),
)
_IPV4: Final = re.compile(r"\b(\d{1,3}\.\d{1,3})\.\d{1,3}\.\d{1,3}\b")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f]*(?::[0-9A-Fa-f]*){2,7}(?![\w:])")
_HOST_PORT: Final = re.compile(r"(?P<host>[^:/\s]+):(?P<port>\d{1,5})")
_PEER_KEYS: Final = ("bootstrap", "nodes", "announce")
"Settings whose text contains peers' addresses."


def _ipv4(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith("127.") or text == "0.0.0.0" else f"{found[1]}.x.x"


def _ipv6(found: re.Match[str]) -> str:
    try:
        address = ipaddress.IPv6Address(found[0])
    except ValueError:
        return found[0]  # a time of day, or other text with colons
    if address.is_loopback or address.is_unspecified:
        return found[0]
    return ":".join(address.exploded.split(":")[:2]) + ":…"


class Anonymizer:
    """Redacts texts and trees; `secrets` are redacted wherever they occur."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._redact: Callable[[str], str] = Redactor(secrets)
        host = re.escape(socket.gethostname())
        self._host = re.compile(rf"\b{host}\b") if len(host) > 2 and host != "localhost" else None

    def text(self, text: str) -> str:
        """`text` without secrets, prompts, addresses and names."""
        text = self._redact(text)
        for pattern, replacement in _FORMS:
            text = pattern.sub(replacement, text)
        text = _IPV6.sub(_ipv6, _IPV4.sub(_ipv4, text))
        return self._host.sub("this-host", text) if self._host else text

    def tree(self, value: Any) -> Any:
        """The same for JSON values; values whose key names a secret are concealed."""
        return self._inside(conceal(value), "")

    def _inside(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {k: self._inside(v, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self._inside(v, key) for v in value]
        if not isinstance(value, str):
            return value
        if key in _PEER_KEYS and (address := _HOST_PORT.fullmatch(value)):
            return f"…:{address['port']}"
        return self.text(value)


def secrets_in(text: str) -> set[str]:
    """Likely secrets in a configuration file that cannot be parsed."""
    pattern = re.compile(
        r"(?im)^[^#\n]*?(?:psk|token|password|passphrase|secret|api[_-]?key)s?[\"']?\s*:\s*(.+)$"
    )
    return {found.strip().strip("\"'") for found in pattern.findall(text)}
