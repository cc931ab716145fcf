"""The catalogue plugin: a client of catalogues of published models."""
