"""Installing plugins: what `aitorrentctl plugin install`, `remove`, `rebuild` and `new` do.

None of it needs a daemon. pip does the work; this package decides where to, within which
constraints, and what is no plugin at all.
"""
