"""Limits on peers, threat scores and bans."""
