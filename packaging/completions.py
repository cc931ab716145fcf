"""Completion files for `aitorrentctl` in bash, zsh and fish: `completions.py SHARE`.

The shells query the program itself, so that plugin commands are completed too. The variables belong
to typer's completion protocol.
"""

from __future__ import annotations

import sys
from pathlib import Path

FILES = {
    "bash-completion/completions/aitorrentctl": """\
_aitorrentctl() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
        _AITORRENTCTL_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _aitorrentctl aitorrentctl
""",
    "zsh/vendor-completions/_aitorrentctl": """\
#compdef aitorrentctl
eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" \\
    _AITORRENTCTL_COMPLETE=complete_zsh aitorrentctl 2>/dev/null)"
""",
    "fish/vendor_completions.d/aitorrentctl.fish": """\
function __aitorrentctl
    _AITORRENTCTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) aitorrentctl 2>/dev/null
end
complete --command aitorrentctl --no-files --arguments '(__aitorrentctl get-args)' \\
    --condition '__aitorrentctl is-args'
""",
}
"Path below /usr/share -> content."


def write(share: Path) -> None:
    """Write the files below `share`."""
    for name, text in FILES.items():
        file = share / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
