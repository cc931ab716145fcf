"""What the tracker answers, and to whom; no I/O and no clock."""
