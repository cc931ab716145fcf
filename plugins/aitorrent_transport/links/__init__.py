"""A socket becomes a secure link: dialling, listening, the handshake on the wire, masking."""
