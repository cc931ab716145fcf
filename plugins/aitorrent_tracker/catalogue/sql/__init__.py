"""The catalogue in SQL: one layer for SQLite and PostgreSQL."""
