"""Installs and removes plugins, and rebuilds their layer.

An installation is planned first (its wheel is available, pip has resolved its dependencies) and
carried out after the user agrees; exactly what was shown is installed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrentd.errors import Conflict, InvalidParams, NotFound, Unavailable
from aitorrentd.installing.pip import Pip, Source, Told
from aitorrentd.installing.target import (
    CORE,
    Target,
    constraints,
    core_distributions,
    here,
    requirement_name,
)
from aitorrentd.installing.wheels import Facts, of_installed, of_wheel
from aitorrentd.kernel.found import NAME, RESERVED
from aitorrentd.system.distributions import PLUGINS, described, normalized
from aitorrentd.system.paths import expanded

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*"
    r"(?:\[(?P<extras>[A-Za-z0-9._, -]*)\])?\s*(?P<version>[<>=!~][^;@]*)?"
)
DEADLINE_S: Final = 6 * 3600.0
"torch and its dependencies take gigabytes; a slow connection needs hours."


@dataclass(frozen=True, slots=True)
class Plan:
    """The effects of an installation."""

    target: Target
    requirement: str
    "As it will be recorded."
    facts: Facts | None
    "The plugin; None for an extra of aitorrentd."
    wheel: Path | None
    extras: str
    "The plugin's extras, with brackets, or empty."
    others: tuple[tuple[str, str], ...]
    "(name, version) of its dependencies to install."
    replaces: str = ""
    "The version installed now."

    @property
    def is_needed(self) -> bool:
        """Whether anything would change."""
        return self.wheel is not None or bool(self.others)


def builtin_plugins() -> frozenset[str]:
    """Names of the built-in plugins."""
    dist = core_distributions().get(CORE)
    points = described(dist)[2] if dist else ()
    return frozenset(name for group, name, _ in points if group == PLUGINS)


class Installer:
    """Installs into one target. `deadline_s` and `told` as in Pip."""

    def __init__(
        self,
        target: Target | None = None,
        source: Source | None = None,
        *,
        deadline_s: float,
        told: Told = lambda state: None,
    ) -> None:
        self.target = target or here()
        self._source = source or Source()
        self._deadline_s = deadline_s
        self._told = told

    @contextmanager
    def _pip(self) -> Iterator[tuple[Pip, Path]]:
        """pip, and a directory for its results."""
        self.target.check()
        with self.target.locked(), tempfile.TemporaryDirectory(prefix="aitorrent-") as name:
            room = Path(name)
            file = room / "constraints.txt"
            file.write_text("\n".join(constraints()) + "\n", encoding="utf-8")
            source = self._source
            if self.target.wheels is not None:
                links = (*source.find_links, str(self.target.wheels))
                source = Source(links, source.has_index)
            yield (
                Pip(self.target, source, file, deadline_s=self._deadline_s, told=self._told),
                room,
            )

    @contextmanager
    def planned(self, what: str, *, upgrade: bool = False) -> Iterator[tuple[Plan, Pip]]:
        """Plan the installation of a name, a wheel, a directory, or `aitorrentd[extra]`.

        Raises:
            InvalidParams: not a plugin, damaged, or nonexistent. Conflict: it is incompatible with
            an installed distribution. Denied, Unavailable, TimedOut, Busy: it cannot be installed
            now.
        """
        with self._pip() as (pip, room):
            self.target.make()
            if is_local(what):
                plan = self._of_distribution(pip, room, str(_existing(what)), "", local=True)
            else:
                plan = self._of_requirement(pip, room, what, upgrade=upgrade)
            yield plan, pip

    def _of_requirement(self, pip: Pip, room: Path, what: str, *, upgrade: bool) -> Plan:
        found = _REQUIREMENT.fullmatch(what.strip())
        if found is None:
            raise InvalidParams(
                f"{what!r} is neither a distribution's name, nor a wheel, nor a directory"
            )
        extras = ",".join(e.strip() for e in (found["extras"] or "").split(",") if e.strip())
        if normalized(found["name"]) == CORE:
            return self._of_extras(pip, room, extras, found["version"] or "")
        suffix = f"[{extras}]" if extras else ""
        return self._of_distribution(pip, room, what.strip(), suffix, local=False, upgrade=upgrade)

    def _of_extras(self, pip: Pip, room: Path, extras: str, version: str) -> Plan:
        installed = core_distributions().get(CORE)
        if installed is None:
            raise Unavailable("aitorrentd is not installed; only its source tree was found")
        core = of_installed(installed)
        offered = [extra for extra in core.extras if extra != "dev"]
        if not extras or version:
            raise InvalidParams(
                f"aitorrentd {core.version} is already installed; upgrade it the way you "
                f"installed it. Its extras can be installed, such as 'aitorrentd[{offered[0]}]'"
            )
        known = {normalized(extra) for extra in core.extras}
        if unknown := [e for e in extras.split(",") if normalized(e) not in known]:
            text = f"aitorrentd has no extra {unknown[0]}; available extras: {', '.join(offered)}"
            raise InvalidParams(text)
        requirement = f"{CORE}[{extras}]"
        others = pip.resolve(self._all_with(requirement, CORE), room / "report.json")
        if any(normalized(name) == CORE for name, _ in others):
            raise Unavailable(f"pip would install a second {CORE}; nothing was changed")
        return Plan(self.target, requirement, None, None, "", tuple(others))

    def _of_distribution(
        self, pip: Pip, room: Path, what: str, extras: str, *, local: bool, upgrade: bool = False
    ) -> Plan:
        if local and what.endswith(".whl"):
            of_wheel(Path(what))  # report damage before pip stumbles over it
        fetched = pip.wheel(what, room / "wheel")
        facts = of_wheel(fetched)
        self._check_plugin(facts)
        before = {normalized(f.name): f for f in self.target.distributions()}
        there = before.get(normalized(facts.name))
        requirement = f"{facts.name}{extras}=={facts.version}"
        if there is not None and not local:
            if there.version == facts.version and not extras:
                return Plan(self.target, requirement, facts, None, extras, (), there.version)
            if there.version != facts.version and not upgrade:
                raise Conflict(
                    f"version {there.version} of {there.name} is installed; "
                    f"--upgrade replaces it with {facts.version}"
                )
        wanted = self._all_with(f"{fetched}{extras}", facts.name)
        resolved = pip.resolve(wanted, room / "report.json")
        others = [o for o in resolved if normalized(o[0]) != normalized(facts.name)]
        replaced = there.version if there else ""
        return Plan(self.target, requirement, facts, fetched, extras, tuple(others), replaced)

    def _check_plugin(self, facts: Facts) -> None:
        """Raise unless it is a plugin whose names are free."""
        title = f"{facts.name} {facts.version}"
        if normalized(facts.name) in core_distributions():
            raise Conflict(f"the library {facts.name} is part of aitorrentd")
        if not facts.is_plugin:
            raise InvalidParams(
                f"not a plugin of aitorrentd: {title} has no entry point in aitorrentd.plugins or "
                "aitorrentd.cli; libraries are installed as requirements of a plugin"
            )
        builtin = builtin_plugins()
        others = {
            name: dist.name
            for dist in self.target.distributions()
            if normalized(dist.name) != normalized(facts.name)
            for name in dist.plugins
        }
        for name in facts.plugins:
            if not NAME.fullmatch(name) or name in RESERVED:
                raise InvalidParams(
                    f"the plugin of {title} is called {name!r}, which is not allowed"
                )
            if name in builtin:
                raise Conflict(
                    f"the plugin of {title} is called {name}, which is the name of a built-in "
                    "plugin"
                )
            if name in others:
                raise Conflict(
                    f"the plugin of {title} is called {name}, like that of {others[name]}; "
                    f"remove that one first: aitorrentctl plugin remove {name}"
                )

    def _all_with(self, requirement: str, name: str) -> list[str]:
        """A requirement plus those already in the layer, which must remain satisfied."""
        kept = [
            line
            for line in self.target.requirements()
            if requirement_name(line) != normalized(name) or (name == CORE and line != requirement)
        ]
        return [requirement, *kept]

    def carry_out(self, plan: Plan, pip: Pip) -> None:
        """Install according to a plan."""
        if not plan.is_needed:
            return
        target = self.target
        if plan.facts is None or plan.wheel is None:
            name, wanted = CORE, plan.requirement
        else:
            name = plan.facts.name
            if plan.replaces == plan.facts.version:
                pip.uninstall(name)  # pip assumes that the same version is the same code
            target.forget_wheels(name)
            wanted = f"{target.keep_wheel(plan.wheel)}{plan.extras}"
        pip.install(self._all_with(wanted, name))
        target.remember(sorted(self._all_with(plan.requirement, name)))

    def owner(self, name: str) -> Facts:
        """The distribution that the name of a plugin, or of a distribution, stands for.

        Raises:
            Conflict: it is part of aitorrentd. NotFound: no such plugin is installed.
        """
        for facts in self.target.distributions():
            if name in facts.plugins or (
                facts.is_plugin and normalized(name) == normalized(facts.name)
            ):
                return facts
        if name in builtin_plugins() or normalized(name) in core_distributions():
            raise Conflict(
                f"the plugin {name} is part of aitorrentd; to disable it: aitorrentctl plugin "
                f"disable {name}"
            )
        known = [plugin for facts in self.target.distributions() for plugin in facts.plugins]
        others = ", ".join(known) or "none"
        raise NotFound(f"no plugin {name} is installed; installed plugins: {others}")

    def check_removable(self, name: str) -> None:
        """Run the checks of `remove` before asking the user.

        Raises:
            NotFound, Conflict: as in `remove`.
        """
        if requirement_name(name) != CORE or "[" not in name:
            self.owner(name)
        elif name not in self.target.requirements():
            raise NotFound(f"the layer has no {name}")

    def remove(self, name: str) -> Facts | None:
        """Remove the distribution of a plugin, or the record of `aitorrentd[extra]` (then None).

        Its dependencies stay, since other plugins may use them.

        Raises:
            NotFound, Conflict: as in `owner`.
        """
        with self._pip() as (pip, _):
            self.check_removable(name)
            kept = self.target.requirements()
            if requirement_name(name) == CORE and "[" in name:
                self.target.remember([line for line in kept if line != name])
                return None
            facts = self.owner(name)
            pip.uninstall(facts.name)
            self.target.forget_wheels(facts.name)
            gone = normalized(facts.name)
            self.target.remember([line for line in kept if requirement_name(line) != gone])
            return facts

    def rebuild(self) -> list[str]:
        """Rebuild the layer from its record, for another Python, or to drop unneeded packages.

        Returns the requirements. On failure the layer is unchanged.

        Raises:
            NotFound: there is no layer.
        """
        layer = self.target.layer
        if layer is None:
            raise NotFound(
                "this installation has no plugin layer; plugins are in aitorrentd's own environment"
            )
        old = layer.with_name(layer.name + ".old")
        with self._pip() as (pip, _):
            if old.exists():  # an earlier attempt was killed midway
                shutil.rmtree(layer, ignore_errors=True)
                old.rename(layer)
            if not layer.exists():
                raise NotFound(f"there is no layer at {layer} yet; no plugin is installed")
            wanted = self.target.requirements()
            layer.rename(old)
            try:
                self.target.make()
                if (old / "wheels").is_dir():
                    shutil.copytree(old / "wheels", layer / "wheels")
                if wanted:
                    pip.install(wanted)
                self.target.remember(wanted)
            except BaseException:
                shutil.rmtree(layer, ignore_errors=True)
                old.rename(layer)
                raise
            shutil.rmtree(old)
        return wanted


def is_local(what: str) -> bool:
    """Whether it names a file or a directory, by pip's rules: a bare name never does."""
    return "/" in what or what in (".", "..") or what.endswith((".whl", ".tar.gz", ".zip"))


def _existing(what: str) -> Path:
    if "://" in what:
        raise InvalidParams(f"{what}: download it first, then install the file")
    path = expanded(Path(what))
    if not path.exists():
        raise InvalidParams(f"there is no file or directory {path}")
    if path.is_dir() and not ((path / "pyproject.toml").exists() or (path / "setup.py").exists()):
        raise InvalidParams(f"{path} is not a Python project: it has no pyproject.toml")
    return path
