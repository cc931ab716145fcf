"""Installing plugins: what `aitorrentctl plugin install`, `remove`, `rebuild` and `new` do.

None of it needs a daemon. pip does the work; this package decides where to install, under which
constraints, and what counts as a plugin.
"""
