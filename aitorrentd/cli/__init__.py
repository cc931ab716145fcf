"""`aitorrentctl`. Plugin commands use `aitorrentd.cli.toolkit` and nothing else from here."""
