"""Values and decisions: no clock, no files, no network, so everything here is tested by the thousand.

manifest   what the repo promises                     tree       the Hub's listings, validated
paths      which names are safe to write              reference  what people type for a repo
select     which of a repo's files are wanted         plan       what to do about each file
blocks     tiling, journal records                    tickets    which blocks to ask for next
flow       how many connections, which to give up     retry      what follows a failure
lifecycle  the state table                            report     outcomes and the report
diagnosis  what is wrong with a model folder          judging    rules over facts
lineprobe  what was measured of a line, and the verdict
pointer    LFS pointers                               gitindex   stat data in git's index
gitremote  where a clone's LFS objects lie            gitglob    its patterns of paths
lfsapi     the LFS batch API, validated               pins       what a lock file holds the Hub to
suppliers  which endpoint to ask, and whom to suspect
facts      what was seen on disk                      findings   what is wrong with it
verified   the report of a verification               sums       SHA256SUMS, read and written
hubroute   a Hub's URLs, from strangers                hubjson    what a Hub says of a repo
httprange  which part of a file a request asks for
"""
