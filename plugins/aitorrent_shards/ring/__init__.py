"""The stages of one answer as a ring: opened, linked, watched, repaired."""
