"""The settings model in docs/plugins.md works, and rejects what the page says in those words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from aitorrentd.api import ConfigError, PluginConfig
from aitorrentd.validation import validated

PAGE = Path(__file__).parents[3] / "docs" / "plugins.md"
SECTION = PAGE.read_text().partition("### Settings\n")[2].partition("\n### ")[0]


def block(language: str) -> str:
    """The one block of the section in `language`."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", SECTION)
    (text,) = (text for tag, text in blocks if tag == language)
    return str(text)


@pytest.fixture(scope="module")
def model() -> type[PluginConfig]:
    defined: dict[str, Any] = {}
    exec(compile(block("python"), str(PAGE), "exec", dont_inherit=True), defined)
    found: type[PluginConfig] = defined["WeatherConfig"]
    return found


def test_table_becomes_an_immutable_model(model: type[PluginConfig]) -> None:
    table = {"stations": [{"url": "http://192.0.2.7", "every_s": 5}], "archive": "~/weather"}
    config: Any = validated(("plugins", "weather"), model, table)
    assert (config.enabled, config.stations[0].every_s) == (True, 5)
    assert config.archive == Path.home() / "weather"
    with pytest.raises(ValidationError, match="frozen"):
        config.stations[0].every_s = 6
    with pytest.raises(ConfigError, match="every_s: should be a finite number"):
        validated(("plugins", "weather"), model, {"stations": [{"url": "x", "every_s": "nan"}]})


def test_all_mistakes_are_reported_as_on_the_page(model: type[PluginConfig]) -> None:
    table = yaml.safe_load(block("yaml"))["plugins"]["weather"]
    with pytest.raises(ConfigError, match="every_s") as wrong:
        validated(("plugins", "weather"), model, table)
    assert list(wrong.value.problems) == block("").splitlines()
