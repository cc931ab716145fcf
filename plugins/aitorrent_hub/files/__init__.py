"""Content and metadata of files: fetched once, verified, and kept."""
