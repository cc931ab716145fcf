"""The web page of the catalogue."""
