"""How peers are reached: attempts, and moves of channels to better links."""
