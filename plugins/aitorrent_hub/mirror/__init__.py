"""The HTTP endpoint that programs use in place of the Hub."""
