"""Who is connected: the table, keeping channels, known peers, answering their streams."""
