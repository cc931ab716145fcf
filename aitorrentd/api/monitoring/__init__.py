"""Metrics that plugins declare and measure, and their text for Prometheus."""
