"""STUN (RFC 8489): this node's address as others see it, and how NATs on the way behave."""
