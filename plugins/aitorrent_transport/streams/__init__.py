"""Many streams on one link: frames, the state of a stream, the multiplexer, the channel."""
