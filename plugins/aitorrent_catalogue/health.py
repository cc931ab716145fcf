"""A check for `doctor`: whether the configured catalogues answer."""

from __future__ import annotations

from aitorrent_catalogue.service import CatalogueClient
from aitorrentd.api import CheckResult, Denied


async def check_servers(client: CatalogueClient | None) -> CheckResult:
    """Whether each catalogue answers, takes its key, and lists entries that verify."""
    if client is None:
        return CheckResult(
            "fail", "the catalogue plugin is not running", "aitorrentctl plugin list"
        )
    if not client.config.servers:
        return CheckResult("ok", "no catalogue is configured")
    problems = await client.problems()
    if not problems:
        names = ", ".join(server.url for server in client.config.servers)
        return CheckResult("ok", f"answered: {names}")
    if any(isinstance(problem, Denied) for problem in problems):
        remedy = "set the announce key, `key`, beside `url` in plugins.catalogue.servers"
    else:
        remedy = "check the addresses in plugins.catalogue.servers"
    return CheckResult("fail", "; ".join(problem.message for problem in problems), remedy)
