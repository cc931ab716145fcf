"""Run layer ranges of a model and chain them over peers into whole answers."""
