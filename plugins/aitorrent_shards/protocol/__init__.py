"""What nodes say to each other about layers and sessions: messages, spans, loading. No I/O."""
