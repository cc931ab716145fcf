"""The protocol between nodes for layers and sessions: messages, spans, loading. No I/O."""
