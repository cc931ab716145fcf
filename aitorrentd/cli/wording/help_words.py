"""Help and errors about options in plain words: NUMBER, 0 to 100, not <float range> or x<=100.

Options with a `rich_help_panel` are listed after the others, under that heading, also without rich.
"""

from __future__ import annotations

import re
from typing import Any, Final

_TYPE: Final = re.compile(r" <(list\[)?(\w+)\]?(?: range)?>$")
_RANGE: Final = re.compile(r"(?:(-?[\d.]+)<=)?\bx(<=|>=)(-?[\d.]+)(?=[;\]])")
_METAVARS: Final = {"int": "NUMBER", "float": "NUMBER", "str": "TEXT"}


def use_plain_words(command: Any) -> None:
    """Describe the parameters of `command` without the type names of Python."""
    for parameter in command.params:
        _reword(parameter, is_argument=parameter.param_type_name == "argument")


def use_panels(command: Any) -> None:
    """List the options of `command`, which is no group, under the headings of their panels."""

    def format_options(ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in command.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel = getattr(parameter, "rich_help_panel", None) or usual
            panels.setdefault(panel, []).append(record)
        for heading, records in panels.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    command.format_options = format_options


def _reword(parameter: Any, *, is_argument: bool) -> None:
    make_record, make_usage = parameter.get_help_record, parameter.get_usage_pieces

    def get_help_record(ctx: Any) -> Any:
        record = make_record(ctx)
        if record is None:
            return None
        name, text = record
        if is_argument:
            name = _TYPE.sub("", name)
        else:
            name = _TYPE.sub(lambda m: " " + _METAVARS.get(m[2], m[2].upper()), name)
        return name, _RANGE.sub(lambda m: _range_text(m[1], m[2], m[3]), text)

    def get_usage_pieces(ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}(?=$|\.)", r"\1", piece) for piece in make_usage(ctx)]

    parameter.get_help_record = get_help_record
    parameter.get_usage_pieces = get_usage_pieces


def _range_text(low: str | None, sign: str, bound: str) -> str:
    if low is not None:
        return f"{low} to {bound}"
    return f"at {'least' if sign == '>=' else 'most'} {bound}"


def plain_value_error(error: Any) -> str:
    """What a usage error says about a value that is no number, out of range, or not among the
    choices; else empty."""
    details = getattr(error.__cause__, "errors", None)
    parameter = getattr(error, "param", None)
    if details is None or parameter is None:
        return ""
    first = details()[0]
    kind = str(first["type"]).partition("_")[0]
    if kind == "value":
        return str(first["msg"]).removeprefix("Value error, ")
    if kind not in ("int", "float", "greater", "less", "finite"):
        return ""
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    limits = ""
    if low is not None and high is not None:
        limits = f" from {low} to {high}"
    elif low is not None or high is not None:
        limits = f" of at {'most' if low is None else 'least'} {low if high is None else high}"
    is_whole = "int" in str(parameter.type_descriptor.annotation)
    return f"{str(first['input'])!r} is not a {'whole ' if is_whole else ''}number{limits}"
