"""A mock Hugging Face Hub that people can run and tests depend on: `python -m mock_server --help`.

    hub          MockHub: a Hub in this process
    run          the command line; runs a command against a Hub of its own
    serve        sockets and threads; the only part that blocks
    app          routes and access                        targets, api, pages, files, quota
    git          bare repos and smart HTTP                 lfs: the batch API
    inject       faults carried out on values
    faults       faults and the rules that say whom they hit; scenario reads them from TOML
    ledger       what was asked and what was sent
    world        repos as data                            content, tiny_llama, demo
    messages     requests and responses as values

Whatever an HTTP server may get wrong is a `Fault`; one scenario for each lies in `scenarios/`.
"""

from mock_server.content import Content, Flipped, GiB, InMemory, KiB, MiB, OnDisk, Seeded
from mock_server.faults import (
    ChangeContent,
    ChangeEtag,
    Chunked,
    Close,
    Cut,
    Delay,
    DropHeaders,
    Expire,
    Fault,
    Flip,
    Garbage,
    Gzip,
    HangUp,
    HtmlPage,
    IgnoreRange,
    Interim,
    Lengthen,
    Match,
    MaxConnections,
    NextPage,
    RedirectLoop,
    RedirectTo,
    RefuseKeepAlive,
    Replace,
    Rule,
    SetHeaders,
    Shorten,
    Stall,
    Status,
    Swap,
    Trickle,
    WrongContentRange,
)
from mock_server.hub import MockHub
from mock_server.ledger import Ledger, Record
from mock_server.quota import Quota
from mock_server.world import Commit, FileValue, Kind, Repo, RepoFile, World, many_small_files

__all__ = [
    "ChangeContent",
    "ChangeEtag",
    "Chunked",
    "Close",
    "Commit",
    "Content",
    "Cut",
    "Delay",
    "DropHeaders",
    "Expire",
    "Fault",
    "FileValue",
    "Flip",
    "Flipped",
    "Garbage",
    "GiB",
    "Gzip",
    "HangUp",
    "HtmlPage",
    "IgnoreRange",
    "InMemory",
    "Interim",
    "KiB",
    "Kind",
    "Ledger",
    "Lengthen",
    "Match",
    "MaxConnections",
    "MiB",
    "MockHub",
    "NextPage",
    "OnDisk",
    "Quota",
    "Record",
    "RedirectLoop",
    "RedirectTo",
    "RefuseKeepAlive",
    "Replace",
    "Repo",
    "RepoFile",
    "Rule",
    "Seeded",
    "SetHeaders",
    "Shorten",
    "Stall",
    "Status",
    "Swap",
    "Trickle",
    "World",
    "WrongContentRange",
    "many_small_files",
]
