"""The pages say nothing of files, links or terms that do not exist."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrentd.api import PluginInfo

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
ROOMS = (
    *(ROOT / room for room in ("", "aitorrentd", "plugins", "packaging/systemd")),
    *sorted((ROOT / "plugins").glob("aitorrent_*")),
)
"Where a path on a page may start; the page's own folder is one, too."
ELSEWHERE = re.compile(
    r"(dist|wheels|aitorrent\.yaml\.d)/.*|/?(etc|var|usr|run|srv)/.*|daemon\.addr"
    r"|(requirements|errors)\.txt|90-set\.yaml"
)
"What a command makes, or what is on a user's machine only."
ENDING = r"(?:py|md|ya?ml|toml|txt|service|socket|sh|lock|svg)"
PATH = re.compile(rf"[\w.@-]+(?:/[\w.@-]+)*(?:\.{ENDING}\b|/(?=$))")


def code_spans(page: Path) -> Iterator[str]:
    """What a page sets as code within its sentences."""
    prose = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    yield from re.findall(r"`([^`\n]+)`", prose)


def diagram_labels(page: Path) -> Iterator[str]:
    for diagram in re.findall(r"(?ms)^```mermaid\n(.*?)^```$", page.read_text()):
        for label in re.findall(r'\["([^"]+)"\]', diagram):
            yield from re.split(r", |<br>|\s", label)


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    plain = (re.sub(r"[^\w\- ]", "", h.lower()) for h in headings)
    return {h.replace(" ", "-") for h in plain}


def exists(page: Path, path: str) -> bool:
    return any((room / path).exists() for room in (page.parent, *ROOMS))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.name)
def test_every_path_named_exists(page: Path) -> None:
    named = [t for t in (*code_spans(page), *diagram_labels(page)) if PATH.fullmatch(t)]
    missing = [t for t in named if not ELSEWHERE.fullmatch(t) and not exists(page, t)]
    assert missing == []


def test_paths_are_found_on_the_pages() -> None:
    """The tests above and below look at something."""
    page = ROOT / "docs" / "architecture.md"
    found = {t for t in code_spans(page) if PATH.fullmatch(t)}
    assert {"aitorrentd/kernel/supervisor.py", "kernel/", "ring/stalls.py"} <= found
    assert {"kernel/", "node.py", "aitorrentd/api/"} <= set(diagram_labels(ROOT / "README.md"))
    assert not exists(page, "kernel/no_such_module.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_resolves(page: Path) -> None:
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        to = page.parent / target if target else page
        if not to.exists():
            broken.append(target)
        elif anchor and anchor not in heading_anchors(to):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def glossary() -> list[tuple[str, str, str]]:
    """Term, meaning and file of every row."""
    page = (ROOT / "docs" / "glossary.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip("| ") for cell in row] for row in rows if "| term |" not in "|".join(row)]
    return [(term, meaning, file.strip("`")) for term, meaning, file in cells if term != "term"]


def test_glossary_has_one_sentence_for_each_term() -> None:
    terms = [term for term, _, _ in glossary()]
    assert len(terms) > 40
    assert sorted(set(terms)) == sorted(terms)
    assert [t for t, meaning, _ in glossary() if not 10 < len(meaning) < 200] == []


def test_every_term_of_the_glossary_is_used_where_it_says() -> None:
    unused = []
    for term, _, file in glossary():
        written = re.compile(re.sub(r"[ -]", r"[ _-]*", term), re.IGNORECASE)
        if not written.search(file + (ROOT / file).read_text()):
            unused.append(f"{term}: {file}")
    assert unused == []


@pytest.mark.parametrize(
    ("question", "file", "holds"),
    [
        ("cipher", "plugins/aitorrent_transport/secure/records.py", "ChaCha20Poly1305"),
        ("sampler", "plugins/aitorrent_shards/answering/sampler.py", "def "),
        ("stage dies", "plugins/aitorrent_shards/ring/repair.py", "class Repair"),
        ("plugin is restarted", "aitorrentd/kernel/supervisor.py", "class Supervisor"),
        ("setting is validated", "aitorrentd/validation.py", "ValidationError"),
        ("peer's prompt", "plugins/aitorrent_inference/peers/serve.py", "/ai-torrent/1/generate"),
        ("peer is banned", "plugins/aitorrent_transport/protection/guard.py", "Ban("),
        ("peer is banned", "plugins/aitorrent_transport/peers/banning.py", "class "),
        ("looks up a key", "plugins/aitorrent_dht/core/finding.py", "def get("),
        ("looks up a key", "plugins/aitorrent_dht/core/walk.py", "class Walk"),
        ("looks up a key", "plugins/aitorrent_dht/core/lookup.py", "class Lookup"),
        ("OpenAI stream", "plugins/aitorrent_openai/sse.py", "class EventDecoder"),
        ("OpenAI stream", "plugins/aitorrent_openai/chunks.py", "Chunk("),
        ("`status`", "aitorrentd/methods/observing.py", "async def status("),
        ("`status`", "aitorrentd/cli/node.py", "def status("),
        ("exit codes", "aitorrentd/exit_codes.py", "class ExitCode"),
        ("exit codes", "aitorrentd/exit_codes.py", "class DaemonExit"),
        ("workers are confined", "packaging/systemd/aitorrent-worker@.service", "PrivateNetwork"),
        ("untrusted code", "packaging/systemd/aitorrent-sandbox@.service", "[Service]"),
        ("untrusted code", "aitorrentd/workers/sandbox.py", "warden"),
    ],
)
def test_readme_says_where_to_find(question: str, file: str, holds: str) -> None:
    rows = [r for r in (ROOT / "README.md").read_text().splitlines() if r.startswith("| ")]
    assert [r for r in rows if question in r and f"]({file})" in r]
    assert holds in (ROOT / file).read_text()


def test_diagram_of_the_readme_has_the_plugins_and_what_they_need() -> None:
    """Each plugin is in it, and each arrow between two of them is in a manifest, and only those."""
    (diagram,) = re.findall(r"(?ms)^```mermaid\n(.*?)^```$", (ROOT / "README.md").read_text())
    found = installed_plugins()
    nodes = re.findall(r'(\w+)\["((?:aitorrent_\w+(?:, )?)+)<br>', diagram)
    packages = {package: box for box, names in nodes for package in names.split(", ")}
    boxes = {name: packages[package] for name, (package, _) in found.items()}
    provider = {key: name for name, (_, info) in found.items() for key in info.provides}
    needs = {
        (boxes[name], word, boxes[provider[key]])
        for name, (_, info) in found.items()
        for word, keys in (("requires", info.requires), ("wants", info.wants))
        for key in keys
    }
    drawn = set(re.findall(r"(\w+) -[-.] (requires|wants) (?:-->|\.->) (\w+)", diagram))
    assert drawn == needs


def installed_plugins() -> dict[str, tuple[str, PluginInfo]]:
    """Package and manifest of each plugin that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for name, target in project["entry-points"]["aitorrentd.plugins"].items():
        module, _, kind = target.partition(":")
        plugin = getattr(importlib.import_module(module), kind)()
        found[name] = (module.partition(".")[0], plugin.aitorrent_info())
    return found


def test_tools_in_the_plugin_guide_can_be_imported_as_it_says() -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text()
    table = guide.partition("### Tools that every plugin needs")[2].partition("\n### ")[0]
    named = re.findall(r"((?:`\w+`(?:, )?)+)(?:, …)? from `([\w.]+)`", table)
    assert len(named) >= 7
    for names, module in named:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_every_attack_on_the_overlay_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"(?m)^\| .* \| `(tests/\S+)::(\w+)` \|$", page)
    assert len(named) >= 29
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"(?m)^(async )?def {name}\b", (ROOT / file).read_text())
    ]
    assert missing == []
