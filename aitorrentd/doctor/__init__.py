"""Diagnoses this machine or node, and builds the report that a user sends."""
