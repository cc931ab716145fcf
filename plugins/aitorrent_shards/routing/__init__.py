"""Which nodes compute which layers: what is on offer, and the plan."""
