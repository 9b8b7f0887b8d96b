"""What the machine can do at best: one socket, one file, one hash, two threads, nothing else; as JSON.

`python -m tests.bench.bare URL FOLDER SIZE`; no resume, no journal, no check of a head: the ceiling for `core`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.units import MiB

_BUFFERS = 16


def _final(url: str) -> str:
    """Return where the file lies in the end."""
    while True:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        connection.request("HEAD", f"{parts.path}?{parts.query}")
        location = connection.getresponse().getheader("location")
        connection.close()
        if location is None:
            return url
        url = location


def _open(url: str, size: int) -> socket.socket:
    """Return a connection on which the file's first byte comes next."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname, parts.port))
    path = f"{parts.path}?{parts.query}"
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nRange: bytes=0-{size - 1}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    if not head.startswith(b"HTTP/1.1 206"):
        raise RuntimeError(head.decode("latin-1"))
    return sock


def fetch(url: str, target: Path, size: int) -> float:
    """Receive, write and hash `size` bytes; return the seconds."""
    full: queue.SimpleQueue[tuple[memoryview, int]] = queue.SimpleQueue()
    free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    for _ in range(_BUFFERS):
        free.put(memoryview(bytearray(MiB)))

    def consume() -> None:
        state, left = hashlib.sha256(), size
        while left:
            buffer, count = full.get()
            state.update(buffer[:count])
            free.put(buffer)
            left -= count

    began = time.perf_counter()
    hasher = threading.Thread(target=consume, daemon=True)
    hasher.start()
    with _open(url, size) as sock, target.open("wb", buffering=0) as file:
        at = 0
        while at < size:
            buffer, have = free.get(), 0
            want = min(MiB, size - at)
            while have < want:
                have += (came := sock.recv_into(buffer[have:want]))
                if not came:
                    raise RuntimeError("the body ended early")
            os.pwrite(file.fileno(), buffer[:have], at)
            full.put((buffer, have))
            at += have
    hasher.join()
    return time.perf_counter() - began


def main() -> None:
    """Print what was measured."""
    url, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    print(json.dumps({"bare": size / fetch(_final(url), folder / "bare.bin", size)}))


if __name__ == "__main__":
    main()
