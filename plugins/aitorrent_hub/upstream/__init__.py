"""The Hub behind the mirror: requests, redirects, and what its answers say about files."""
