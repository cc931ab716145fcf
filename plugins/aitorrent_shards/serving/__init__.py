"""This node's layers, held in a worker and served to coordinators."""
