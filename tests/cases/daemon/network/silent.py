"""silent.py HOST PORT SECONDS N: keeps N silent connections open, renewed when they are cut."""

import socket
import sys
import threading
import time

host, port, seconds, count = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
end = time.monotonic() + seconds


def hold() -> None:
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), 2) as sock:
                sock.settimeout(6)
                sock.recv(1)
        except OSError:
            pass
        time.sleep(0.05)


threads = [threading.Thread(target=hold) for _ in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
