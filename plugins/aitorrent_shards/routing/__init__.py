"""Which nodes compute which layers: the available spans, and the plan."""
