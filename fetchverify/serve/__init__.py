"""A read-only Hub over a mirror: answers what the hub's client and ours ask, from disk alone; makes no request itself.

answers   a request in, an answer out: access, routes, refusals; knows no socket and no event loop
mirror    what a mirror can be asked: `Mirror`, `Repo`; `cached` and `foldered` are the two layouts on disk
records   what our ledgers say of the bytes that lie there
asgi      answers on the wire of any ASGI server: bodies, deadlines, clients that went away, the access log
counts    what was served, as Prometheus reads it
running   the server that carries it, an extra: `pip install 'fetchverify[serve]'`
"""
