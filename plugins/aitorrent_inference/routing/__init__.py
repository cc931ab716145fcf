"""Choosing who answers, and keeping the queue."""
