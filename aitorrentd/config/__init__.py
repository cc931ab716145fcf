"""Configuration: files, drop-ins, environment and command line, merged and validated.

Later wins: defaults, the file, its drop-ins by name, the environment, the command line.
"""

from aitorrentd.config.edit import plan_setting, write_setting
from aitorrentd.config.load import Config, WrongSettings
from aitorrentd.config.model import ControlSettings, LogSettings, NodeSettings, Settings

__all__ = [
    "Config",
    "ControlSettings",
    "LogSettings",
    "NodeSettings",
    "Settings",
    "WrongSettings",
    "plan_setting",
    "write_setting",
]
