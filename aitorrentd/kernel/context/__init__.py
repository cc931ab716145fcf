"""What one plugin is handed while it runs: context, event bus, services, database, drain."""
