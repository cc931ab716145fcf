"""Suggests a command for a mistyped one: close in meaning or in spelling, or none.

A suggestion gets copied and run, so a command that stops or removes something is suggested only for
a typo in its own name, or for a synonym.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MEANINGS: Final[dict[str, tuple[str, ...]]] = {
    "ask": ("prompt", "generate", "complete", "completion", "query", "run", "question"),
    "bugreport": ("bug", "report", "bug-report", "debug", "diagnose", "support"),
    "call": ("invoke", "method"),
    "chat": ("talk", "conversation", "repl"),
    "config": ("configuration", "configure", "settings", "setting", "conf", "cfg", "options"),
    "config check": ("validate", "check", "lint", "verify"),
    "config reload": ("reload", "refresh", "hup"),
    "config set": ("set",),
    "config get": ("get",),
    "connect": ("dial", "join", "add-peer"),
    "disconnect": ("hangup", "hang-up", "drop-peer", "remove-peer"),
    "doctor": ("health", "healthcheck", "diagnostics", "troubleshoot", "problems"),
    "drain": ("quiesce", "evacuate"),
    "events": ("watch", "monitor", "follow", "subscribe"),
    "id": ("whoami", "identity", "peer-id", "peerid", "addresses", "address"),
    "logs": ("journal", "log", "tail", "messages"),
    "models": ("ls-models", "list-models", "tags"),
    "peers ban": ("ban", "block"),
    "peers unban": ("unban", "unblock", "pardon"),
    "peers": ("nodes", "connections", "neighbours", "neighbors", "network", "swarm"),
    "ping": ("latency", "rtt"),
    "plugin": ("plugins", "extension", "extensions", "addon", "addons", "module", "modules"),
    "plugin disable": ("disable",),
    "plugin enable": ("enable",),
    "plugin install": ("install",),
    "plugin list": ("list", "ls"),
    "plugin remove": ("uninstall",),
    "rpc": ("methods", "api"),
    "rpc describe": ("describe",),
    "sessions": ("answers", "running", "ps", "jobs"),
    "shell": ("prompt-line", "interactive", "console"),
    "spans": ("layers", "shards", "stages"),
    "status": ("info", "state", "show", "stat", "overview", "top"),
    "version": ("versions", "ver"),
    "wait": ("wait-for", "ready"),
}
"Command -> words that users try instead; two-word entries are subcommands of a group."

ENDINGS: Final = frozenset({"drain", "disconnect", "remove", "disable", "restart", "rebuild"})
"Commands that stop or remove something."

_SUBCOMMANDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "plugin": {
        "list": ("ls", "show", "all", "status"),
        "info": ("describe", "details", "inspect", "show-one"),
        "enable": ("on", "activate", "start"),
        "disable": ("off", "deactivate", "stop"),
        "restart": ("reload", "reset"),
        "install": ("add", "get", "update", "upgrade"),
        "remove": ("uninstall", "delete", "rm", "del", "purge"),
        "rebuild": ("repair", "reinstall"),
        "new": ("create", "init", "scaffold", "template"),
    },
    "config": {
        "show": ("list", "ls", "view", "dump", "print", "all"),
        "check": ("validate", "lint", "verify", "test"),
        "get": ("read", "value"),
        "set": ("edit", "change", "write", "put"),
        "reload": ("refresh", "apply", "reread"),
    },
    "peers": {
        "ban": ("block", "blacklist", "deny"),
        "unban": ("unblock", "pardon", "allow"),
    },
    "rpc": {
        "list": ("ls", "methods", "all", "show"),
        "describe": ("info", "schema", "help", "doc"),
    },
}

_SERVICE: Final[dict[str, str]] = {
    "start": "start it: aitorrentd, or systemctl start aitorrentd for the system service",
    "stop": "stop it: Ctrl-C where it runs, kill PID (see aitorrentctl status), or systemctl stop "
    "aitorrentd for the system service",
    "restart": "stop it and start it again: aitorrentd, or systemctl restart aitorrentd for the "
    "system service",
}
"Actions of the service manager, for which there is no command here."


def suggestion(typed: str, commands: Iterable[str], *, group: str = "") -> str:
    """The command of `commands` that `typed` stands for, with its subcommand if that is meant;
    empty if none is close. `group` is the command whose subcommands these are."""
    known = list(commands)
    word = re.sub(r"[\s_]+", "-", typed.strip().lower())
    if word in known:
        return word
    meanings = _SUBCOMMANDS.get(group, {}) if group else MEANINGS
    for command, words in meanings.items():
        if word in words and command.split()[0] in known:
            return command
    singular = {name.rstrip("s"): name for name in known}
    if word.rstrip("s") in singular:
        return singular[word.rstrip("s")]
    others = {w for words in meanings.values() for w in words}
    near = [(distance(word, name), name) for name in known if _may_be(word, name)]
    best = min(near, default=(9, ""))
    # A word equally close to a synonym of something else stands for nothing in particular.
    rival = min((distance(word, other) for other in others), default=9)
    return best[1] if best[0] <= rival else ""


def service_hint(typed: str) -> str:
    """For words such as `stop` and `stop-daemon`: how the daemon itself is started and stopped."""
    words = re.split(r"[-_\s]+", typed.strip().lower())
    if set(words[1:]) <= {"daemon", "node", "server", "service", "aitorrentd"}:
        return _SERVICE.get(words[0], "")
    return ""


def _may_be(typed: str, name: str) -> bool:
    """Whether `typed` is close enough to `name` in spelling to suggest it."""
    is_swap = typed[:2] == name[1::-1]
    if len(typed) < 2 or (typed[0] != name[0] and not is_swap):
        return False
    if name in ENDINGS:
        return typed[0] == name[0] and distance(typed, name) <= 1
    return distance(typed, name) <= (1 if len(name) <= 4 else 2)


def distance(a: str, b: str) -> int:
    """Insertions, deletions, replacements and transpositions from `a` to `b`.

    Source: Damerau (1964), without overlapping transpositions (optimal string alignment).
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row, older = row, [i], before
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        before = last
    return row[-1]
