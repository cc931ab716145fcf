"""What a plugin receives while it runs: context, event bus, services, database, drain."""
