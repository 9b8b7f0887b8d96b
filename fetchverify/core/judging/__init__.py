"""Rules over facts: what is on disk, held against what was promised; looking and hashing are left to others.

`questions` say whose bytes must be looked at; what follows from the answers is a `Verdict` of `core.findings`.

questions  whose bytes to hold against what           links      which blob a snapshot's name leads to
files      one file's bytes against its promise       blobs      a repo's blobs, each judged once
cache      a repo's folder in the cache               store      what all repos of a cache share
folder     a plain folder or a clone                  litter     what lies about and nobody needs
"""
