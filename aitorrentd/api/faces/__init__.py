"""What plugins that serve programs or people over HTTP have in common."""
