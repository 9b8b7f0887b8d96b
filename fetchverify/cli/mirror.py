"""`fetchverify mirror`: the commands that keep a mirror and serve it, each imported when it is run."""

from __future__ import annotations

from fetchverify.cli.help import LazyGroup

COMMANDS = {
    "init": "Write a commented mirror.toml to begin with.",
    "check": "Say what is wrong with a mirror.toml, line by line.",
    "sync": "Bring the mirror to where the Hub is; for cron or a timer.",
    "status": "Say how the mirror stands, as a table or as metrics.",
    "verify": "Hash a share of its files, the oldest proof first.",
    "serve": "Serve it as a read-only Hub.",
}

command = LazyGroup(
    "mirror",
    lazy=COMMANDS,
    inside="mirror_",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Keep a mirror of repos, fresh by cron or a timer, and serve it to a network.",
)
