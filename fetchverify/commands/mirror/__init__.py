"""`mirror`: a copy of repos that cron keeps fresh.

setting   the config file read, and where things lie
sync      one run: ask, fetch what moved, publish, prune, tell
targets   which revisions there are to keep, and where the Hub has them
places    how each layout publishes, and what it keeps
hooks     commands and addresses that hear of a run
status    what the last runs left
proving   hash a share of the files, the oldest proof first
"""
