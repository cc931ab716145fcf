"""Swarms that several trackers share through Redis."""
