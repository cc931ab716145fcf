"""Shares, finds and fetches files of models in BitTorrent swarms, by libtorrent."""
