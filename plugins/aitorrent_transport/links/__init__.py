"""From socket to secure link: dialling, listening, the handshake on the wire, masking."""
