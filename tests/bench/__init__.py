"""Races fetchverify against its peers: `python -m tests.bench --help`. No part of the test suite.

    __main__     the command line
    race         what runs when; judges each run                 peers (their command lines), cases (what they fetch)
    report       medians, ratios, aims as Markdown               plot (SVG)
    core         one core's sha256 against the engine in process
    startup      CPU seconds of `--help`
    many         repos of 10,000 and 100,000 files
    serve        `mirror serve` against nginx
    site         the server: nginx where there is one            nginx (its configuration)
    line         a slow, long line before the server             line.c
    launch       runs a command and reports what it cost; alone in a process that stays small
    place        the machine: network namespace, disk, pages; what the header of a report says

Everything stays on loopback; as root even in a network namespace of its own.
"""
