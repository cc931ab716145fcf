"""Tools for backends that relay prompts to a model server over HTTP."""
