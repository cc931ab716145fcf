"""The gateway plugin: models of the whole network, in the dialects that clients speak."""
