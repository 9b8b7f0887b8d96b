"""`fetchverify mirror`: the commands that keep a mirror and serve it; each is imported when it is run."""

from __future__ import annotations

from fetchverify.cli.help import LazyGroup

COMMANDS = {
    "serve": "Serve a mirror as a read-only Hub.",
}

command = LazyGroup(
    "mirror",
    lazy=COMMANDS,
    inside="mirror_",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Keep a mirror of repos, and serve it to a network.",
)
