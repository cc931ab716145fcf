"""Run layer ranges of a model and chain them across peers to produce complete answers."""
