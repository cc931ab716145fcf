"""Datagrams to and from one peer, and QUIC on them as an asyncio transport."""
