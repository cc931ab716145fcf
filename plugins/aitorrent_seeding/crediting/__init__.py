"""Who sent how much to whom: BitTorrent connections, the nodes behind them, and their accounts."""
