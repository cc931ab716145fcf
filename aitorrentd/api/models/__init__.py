"""What plugins agree on about models and their answers."""
