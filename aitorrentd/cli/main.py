"""`aitorrentctl`: the entry point. `--version` answers before anything heavy is imported."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from aitorrentd.system.streams import fill_standard_descriptors

if TYPE_CHECKING:
    from aitorrentd.cli.plugin_commands import PluginCommands


def main(argv: list[str] | None = None, *, plugins: PluginCommands | None = None) -> int:
    """Run a command line (without the program's name); returns the exit code.

    `plugins` are the commands of plugins, by default those that are installed.
    """
    fill_standard_descriptors()
    args = sys.argv[1:] if argv is None else argv
    if args in (["--version"], ["-V"]) and sys.stdout is not None:
        from aitorrentd import __version__

        # If it cannot be written, `run` meets the same error and reports it.
        with suppress(OSError):
            sys.stdout.write(f"aitorrentctl {__version__}\n")
            sys.stdout.flush()
            return 0
    from aitorrentd.cli.running import run
    from aitorrentd.installing import layer as layers
    from aitorrentd.system.foreign import disable_pydantic_plugins

    disable_pydantic_plugins()
    layers.activate()
    return run(args, plugins=plugins)


if __name__ == "__main__":
    sys.exit(main())
