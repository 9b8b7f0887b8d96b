"""What lies on disk, and how it comes to lie there; deciding is left to `core`, the network to `net`.

`disk` is the door that every write goes through (`rawdisk` its single calls, `syscalls` what Python lacks,
`diskerrors` what failures mean). `layout` says what a target can do; `hubcache` (with `relink`, `sharedblobs`) is
the hub's cache, `folder` (with `localdir`) a plain folder; both use `area`, our own folder beside the target,
`looker` and `trees`, the hub's cached listings. `partial` (with `partialdirs`, `owner`, `direct`) keeps an unfinished
file, `blockmap` and `proofs` what was proved, `seal` how a whole repo looked when nothing was wrong in it, `quarantine`
what was bad. `clone` (with `git`) looks at a git clone,
`worktree` is its work tree as a target, `settle` tells git-lfs's store and git's index of what was filled.
`pinfile` keeps lock files. `survey` (with `surveyfolder`, `surveyclone`) looks at all that lies in a cache, a folder or
a clone, for what judges it. `hublock` takes the locks of the hub's client, `holders` names who holds one.
`reading` and `evidence` look at what others wrote, for `doctor`.
`beneath` opens what lies below a root and nothing else.
"""
