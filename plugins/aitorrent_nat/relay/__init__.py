"""Relays: public nodes that pass bytes between two nodes, of which nobody can dial one."""
