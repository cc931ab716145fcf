"""Tools and reasoning in the formats that models write: templates, grammars, and reading."""
