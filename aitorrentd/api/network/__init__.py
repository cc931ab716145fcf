"""Types for peers that plugins share: transport, addresses, directory, dialers."""
