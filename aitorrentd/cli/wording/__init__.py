"""Words that help: plain help and errors, suggestions for what was mistyped, hints at options."""
