"""The DHT without I/O and without a clock: table, lookups, records, answers."""
