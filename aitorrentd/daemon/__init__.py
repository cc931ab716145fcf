"""The life of the system service: signals, the service manager, the watchdog, the address file."""
