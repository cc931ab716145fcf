"""The interface to the operating system: paths, files, memory, systemd."""
