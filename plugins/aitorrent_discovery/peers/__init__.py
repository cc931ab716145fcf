"""Peers to dial: how each one fared, which comes next, and what outlives a restart."""
