"""The HTTP plugin: one server for the routes of all plugins."""
