"""Doctor checks of what the daemon's sandbox hides from it: its unit and its plugin layer.

`aitorrentctl doctor` runs them itself, whether a daemon answers or not.
"""

from __future__ import annotations

from collections.abc import Mapping

from aitorrentd.doctor.findings import Checked
from aitorrentd.installing import layer as layers
from aitorrentd.installing.target import Target, core_distributions, here
from aitorrentd.system import unit
from aitorrentd.system.distributions import normalized


def unit_finding(found: Mapping[str, str]) -> tuple[str, str, str]:
    """Status, text and remedy for a service with these properties."""
    load, active = found.get("LoadState", ""), found.get("ActiveState", "")
    boot = found.get("UnitFileState", "")
    if load == "masked":
        return "warn", f"{unit.DAEMON} is masked", f"systemctl unmask {unit.DAEMON}"
    if load != "loaded":
        return "ok", f"{unit.DAEMON} is not installed", ""
    if active == "failed":
        why = found.get("Result", "failed")
        again = f"systemctl reset-failed {unit.DAEMON} && systemctl start {unit.DAEMON}"
        remedy = f"journalctl -u {unit.DAEMON} -n 50; then: {again}"
        return "fail", f"{unit.DAEMON} failed ({why})", remedy
    if active in ("activating", "deactivating", "reloading"):
        return "warn", f"{unit.DAEMON} is {active}", f"wait, or see: systemctl status {unit.DAEMON}"
    if active != "active":
        state = f"{unit.DAEMON} is {active}"
        how = "enable --now" if boot == "disabled" else "start"
        return "warn", state, f"systemctl {how} {unit.DAEMON}"
    if boot == "disabled":
        text = f"{unit.DAEMON} is running, but not enabled at boot"
        return "ok", text, f"systemctl enable {unit.DAEMON}"
    return "ok", f"{unit.DAEMON} is running", ""


def _layer(target: Target) -> tuple[str, str, str]:
    layer = target.layer
    if layer is None:
        return "ok", "plugins are installed in aitorrentd's own environment", ""
    try:
        if not layer.is_dir():
            return "ok", f"no plugins installed yet; they go into {layer}", ""
        if text := layers.problem(layer):
            what, _, remedy = text.partition("; run: ")
            return "fail", f"{what}; none of its plugins is loaded", remedy
        rebuild = "sudo aitorrentctl plugin rebuild"
        if not target.site.is_dir():
            return (
                "fail",
                f"{layer} was built for another Python; none of its plugins is loaded",
                rebuild,
            )
        core = core_distributions()
        found = target.distributions()
    except PermissionError as e:
        return "warn", f"cannot read {e.filename}", "run aitorrentctl doctor as root"
    if doubled := [f.name for f in found if normalized(f.name) in core]:
        text = f"{layer} contains {', '.join(doubled)}, but aitorrentd uses its own copy"
        return "warn", text, rebuild
    plugins = [name for facts in found for name in facts.plugins]
    return "ok", f"{layer} contains {', '.join(plugins) or 'no plugin'}", ""


def machine_checks(
    *, with_unit: bool, target: Target | None = None, systemd: unit.Systemd = unit.SYSTEM
) -> list[Checked]:
    """The checks; `with_unit` only if the daemon in question is the system's.

    `target` is where plugins go, by default those of this installation.
    """
    found = [("plugin-layer", "installed plugins can be loaded", _layer(target or here()))]
    if with_unit and (properties := systemd.properties(unit.DAEMON)):
        found.insert(0, ("unit", "the system service is healthy", unit_finding(properties)))
    return [
        Checked(
            name,
            "core",
            summary,
            "fail" if status == "fail" else "warn" if status == "warn" else "ok",
            text,
            remedy,
        )
        for name, summary, (status, text, remedy) in found
    ]
