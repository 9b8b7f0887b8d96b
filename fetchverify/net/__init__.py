"""The wire: metadata in, bytes in; nothing here touches a disk.

hub        a revision to a Manifest, async
transport  asks one endpoint for the bytes of ranges, in worker threads
body       the bytes of one answer, and of those asked for behind it
checks     what an answer must be, and the failure that it is otherwise
detach     bodies read off the connection's own socket
probing    measures the line to an endpoint
lfs        addresses of LFS objects, by the batch API
lfsauth    who may read from an LFS server: `git credential`, SSH, the Hub's token
wire       addresses, headers, who may see the token, errors translated; the hub's httpx
"""
