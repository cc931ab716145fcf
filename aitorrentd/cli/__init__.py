"""`aitorrentctl`. Plugin commands may use only `aitorrentd.cli.toolkit` from this package."""
