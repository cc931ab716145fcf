"""Multiplexed streams on one link: frames, stream state, the multiplexer, the channel."""
