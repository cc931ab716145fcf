"""The coordinator's side of an answer: the transcript, sampling and streaming to the caller."""
