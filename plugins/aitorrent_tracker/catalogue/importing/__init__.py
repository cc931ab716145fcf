"""Collections of older catalogues, read from their exports; no I/O."""
