"""Carries out a plan: from promised bytes to proved files; what a file promises is left to `core`.

transfer   a Plan, file by file                       run        what all files of one run share
large      one large file: lines, hasher, retries     fetch      one range: body, pwrite, journal, hasher
small      one small file, in memory                  publish    proved bytes to readers, bad ones to quarantine
hashing    the digest while bytes arrive              audit      the digest of what lies on disk
pace       a cap on bytes per second                  suppliers  the endpoints: whom to ask, whom to leave out
opinion    which blocks of a bad file differ          turn       waiting for another run's unfinished file
answering  questions about bytes on disk, in threads  ledger     notes what they proved
"""
