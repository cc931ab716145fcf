"""Configuration: files, drop-ins, environment and command line, merged and validated.

`load` is the whole path of a setting: read → merge → resolve secrets → validate → freeze, one
module each. Later layers win: defaults, the file, its drop-ins by name, the environment, the
command line.
"""

from aitorrentd.config.edit import plan_setting, write_setting
from aitorrentd.config.load import Config, WrongSettings

__all__ = ["Config", "WrongSettings", "plan_setting", "write_setting"]
