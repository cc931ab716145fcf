"""Files that huggingface_hub has on this machine: found, verified, and offered for seeding."""
