"""The kernel: finds, configures, orders, starts, watches and stops plugins."""
