"""Pictures for programs, drawn by a server that the operator configured."""
