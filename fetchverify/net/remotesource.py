"""A file on the Hub, read by ranges: enough for its header, which a parser asks for piece by piece."""

from __future__ import annotations

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import Manifest, RemoteFile
from fetchverify.net.checks import Source
from fetchverify.net.transport import ByteClient

# Most headers of shards are shorter, so that one request brings length and header.
FIRST_BYTES = 64 << 10


class RemoteSource:
    """Bytes of a remote file, asked for when they are read; blocks, and runs in a worker thread."""

    def __init__(self, client: ByteClient, manifest: Manifest, file: RemoteFile) -> None:
        self._client = client
        self._manifest = manifest
        self._file = file
        self._source: Source | None = None
        self._head = b""

    @property
    def size(self) -> int:
        """Bytes in all, as the commit's tree says."""
        return self._file.size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of `[start, stop)`; fewer only where the content ends.

        Raises:
            TransferError: they are not to be had.
        """
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        if not self._head:
            self._head = self._range(0, min(self.size, FIRST_BYTES))
        if stop <= len(self._head):
            return self._head[start:stop]
        return self._range(start, stop)

    def _range(self, start: int, stop: int) -> bytes:
        if self._source is None:
            self._source = self._client.locate(self._manifest, self._file)
        into = memoryview(bytearray(stop - start))
        with self._client.open(self._manifest, self._file, self._source, Block(start, stop)) as body:
            done = 0
            while done < len(into):
                done += body.fill(into[done:])
            body.finish()
        return bytes(into)
