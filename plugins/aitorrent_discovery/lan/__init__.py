"""The local network: multicast DNS, and the interfaces on which it is spoken."""
