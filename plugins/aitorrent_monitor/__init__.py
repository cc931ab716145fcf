"""Metrics for Prometheus, and the health of the node for probes and people."""
