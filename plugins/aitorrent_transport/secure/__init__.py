"""The cryptography of a link: handshake, certificate, suites, records. No I/O."""
