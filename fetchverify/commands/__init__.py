"""One module a command, each with a `run`: observe, decide, act, report; words and bars are left to `sinks`.

get        a repo or some of its files, proved, into the hub's cache or a plain folder
comparing  a folder against its repo's own headers, for `doctor`
doctor     say what is wrong with a model's folder
probe      measure the line to an endpoint
lock       what repos promise today, in a file to review
pull       the LFS pointers of a git clone, filled and proved
verify     what lies in the cache or a folder, held against the Hub's word or what is here
           `verifyoptions` what was asked, `verifycache` and `verifyfolder` the places, `verification` what both need
truth      where that word comes from; `sums` writes SHA256SUMS
fix_cache  what is damaged in the cache, mended: `fixing` what its parts share, `fixsteps` single names,
           `fixrestore` files linked or fetched again, `fixstore` the shared store; `purging` removes what is stale
garbage    keeps Python's collector from looking at 100,000 files again and again
meant      what a person means who names something to `doctor`
runner     runs a command until it ends or a signal comes
"""
