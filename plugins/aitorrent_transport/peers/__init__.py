"""Connected peers: the table, channel upkeep, known peers, and serving their streams."""
