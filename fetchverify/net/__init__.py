"""The wire: metadata in, bytes in; nothing here touches a disk.

hub        a revision to a Manifest, async
transport  the bytes of one range, in worker threads
detach     bodies read off the connection's own socket
probing    measures the line to an endpoint
lfs        addresses of LFS objects, by the batch API
lfsauth    who may read from an LFS server: `git credential`, SSH, the Hub's token
wire       addresses, headers, who may see the token, errors translated; the hub's httpx
"""
