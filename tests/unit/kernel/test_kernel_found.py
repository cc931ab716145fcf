"""Which plugins are found, and which of two that share a name is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitorrentd.kernel import found
from aitorrentd.kernel.found import Found, PluginSource, installed, select, tier_of
from tests.support.kernel_plugins import kernel, made, states


class HelloWorldPlugin:
    pass


def source(name: str, dist: str) -> PluginSource:
    return PluginSource.of(HelloWorldPlugin, name=name, dist=dist)


def distribution(path: Path, name: str, entry_points: str) -> None:
    folder = path / f"{name.replace('-', '_')}-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (folder / "entry_points.txt").write_text(f"[aitorrentd.plugins]\n{entry_points}\n")


def test_class_name_gives_the_plugin_name() -> None:
    assert PluginSource.of(HelloWorldPlugin).name == "hello_world"


def test_builtin_plugin_wins_its_name_and_both_distributions_are_named() -> None:
    chosen = select([source("dht", "aaa-dht"), source("dht", "aitorrentd")])
    assert [(s.name, s.dist) for s in chosen.sources] == [("dht", "aitorrentd")]
    assert chosen.problems == (
        (
            "dht",
            "several distributions provide a plugin 'dht': aitorrentd and aaa-dht; that of "
            "aitorrentd is used; uninstall the other",
        ),
    )


def test_order_is_the_same_whatever_the_order_of_the_path() -> None:
    sources = [source("b", "x"), source("a", "y"), source("z", "aitorrentd"), source("a", "x")]
    orders = [[(s.name, s.dist) for s in select(s).sources] for s in (sources, sources[::-1])]
    assert orders == [[("z", "aitorrentd"), ("a", "x, y"), ("b", "x")]] * 2


@pytest.mark.parametrize("name", ["core", "rpc", "Dht", "a/b", "..", "", "a.b", "a" * 41, "1st"])
def test_name_that_cannot_be_used_is_refused(name: str) -> None:
    (chosen,) = [select([source(name, "x")])]
    if name:
        assert chosen.sources == ()
        assert "of x is ignored: its name" in chosen.problems[0][1]


def test_distribution_name_is_compared_as_pip_does() -> None:
    assert [tier_of(d) for d in ("Aitorrentd", "aitorrentd", "aitorrentd-x")] == [
        "builtin",
        "builtin",
        "third-party",
    ]


def test_entry_points_are_read_without_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "their-plugin", "theirs = no_such_module_theirs:Plugin [fast,cuda]")
    monkeypatch.syspath_prepend(str(tmp_path))
    (theirs,) = [s for s in installed().sources if s.name == "theirs"]
    assert (theirs.dist, theirs.version, theirs.tier) == ("their-plugin", "1.2", "third-party")
    assert (theirs.extras, theirs.package) == (("fast", "cuda"), "no_such_module_theirs")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_theirs"):
        theirs.load()


async def test_kernel_uses_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aitorrent_theirs_found.py").write_text(
        "from aitorrentd.api import PluginInfo, hookimpl\n"
        "class Theirs:\n"
        "    @hookimpl\n"
        "    def aitorrent_info(self):\n"
        "        return PluginInfo('theirs', 'found on the path')\n"
    )
    distribution(tmp_path, "their-plugin", "theirs = aitorrent_theirs_found:Theirs")
    distribution(tmp_path, "broken-plugin", "bad = no_such_module_bad:Bad")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = [s for s in installed().sources if s.name in {"theirs", "bad"}]
    monkeypatch.setattr(found, "installed", lambda: Found(tuple(mine)))
    node = kernel(tmp_path)
    node._sources = None
    async with node:
        assert states(node) == {"bad": "broken", "theirs": "running"}
        row = node.row("theirs")
        assert (row.tier, row.dist, row.version) == ("third-party", "their-plugin", "1.2")


async def test_two_plugins_of_one_name_leave_one_and_a_warning(tmp_path: Path) -> None:
    async with kernel(tmp_path, made("dht", dist="their-dht"), made("dht")) as node:
        assert states(node) == {"dht": "running"}
        assert node.row("dht").dist == "aitorrentd"
        ((name, warning),) = node.health()
        assert (name, warning.code) == ("dht", "plugin_unusable")
        assert "aitorrentd and their-dht" in warning.text


async def test_of_two_foreign_plugins_with_one_name_neither_runs(tmp_path: Path) -> None:
    rivals = [made("dht", dist="one-dht"), made("dht", dist="two-dht"), made("other")]
    async with kernel(tmp_path, *rivals) as node:
        assert states(node) == {"dht": "broken", "other": "running"}
        row = node.row("dht")
        assert row.dist == "one-dht, two-dht"
        assert row.detail == (
            "several distributions provide a plugin 'dht': one-dht and two-dht; "
            "uninstall all but one"
        )
        assert row.detail in {warning.text for _, warning in node.health()}
