"""The operating system, asked in one place: paths, files, memory, systemd."""
