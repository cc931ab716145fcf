"""The parts of a running node, started and stopped in order."""
