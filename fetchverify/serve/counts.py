"""What was served, counted, as Prometheus reads it; no names of repos or clients are in it. Not thread-safe."""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal

from fetchverify.serve.answers import Answer, FilePart

# The client went away; took no byte for too long; the disk failed or the file was cut under us.
Broken = Literal["client", "stalled", "disk"]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counts:
    """The counters of one server."""

    def __init__(self) -> None:
        self._started = time.time()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._broken: Counter[Broken] = Counter({"client": 0, "stalled": 0, "disk": 0})
        self._withheld: Counter[str] = Counter({"absent": 0, "size": 0, "changed": 0, "unproved": 0})
        self._unproved = 0
        self._sent = 0
        self.sent_by_kernel = 0
        self.under_way = 0

    def answered(self, answer: Answer, sent: int, broken: Broken | None) -> None:
        """Count an answer at its end."""
        self._answers[answer.route, answer.status] += 1
        self._sent += sent
        if broken is not None:
            self._broken[broken] += 1
        if answer.withheld is not None:
            self._withheld[answer.withheld] += 1
        if isinstance(answer.body, FilePart) and not answer.body.proved:
            self._unproved += 1

    def text(self) -> str:
        """Return all counters in the text format of Prometheus."""
        lines: list[str] = []

        def family(name: str, kind: str, what: str, values: list[tuple[str, float]]) -> None:
            lines.append(f"# HELP fetchverify_serve_{name} {what}")
            lines.append(f"# TYPE fetchverify_serve_{name} {kind}")
            lines.extend(f"fetchverify_serve_{name}{labels} {value}" for labels, value in values)

        answers = [
            (f'{{route="{route}",status="{status}"}}', n) for (route, status), n in sorted(self._answers.items())
        ]
        family("answers_total", "counter", "Answers, by route and status.", list(answers))
        family("sent_bytes_total", "counter", "Bytes of bodies given to the wire.", [("", self._sent)])
        what = "Those of them that the kernel sent from files by itself."
        family("sent_by_kernel_bytes_total", "counter", what, [("", self.sent_by_kernel)])
        family("answers_under_way", "gauge", "Answers that are being sent.", [("", self.under_way)])
        broken = [(f'{{by="{by}"}}', n) for by, n in sorted(self._broken.items())]
        family("broken_total", "counter", "Answers that ended early, by who ended them.", list(broken))
        withheld = [(f'{{why="{why}"}}', n) for why, n in sorted(self._withheld.items())]
        family("withheld_total", "counter", "Promised files that were not given, by reason.", list(withheld))
        what = "Answers from files of which no record says that they were proved."
        family("unproved_total", "counter", what, [("", self._unproved)])
        family("start_time_seconds", "gauge", "When this server started, Unix time.", [("", round(self._started, 3))])
        return "\n".join(lines) + "\n"
