import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHOW = "import os; print(os.environ['HF_ENDPOINT'], os.environ['HF_HOME'], os.path.isdir(os.environ['HF_HOME']))"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mock_server", *arguments]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=given, capture_output=True, text=True, timeout=30, check=False
    )


def test_run_points_a_command_at_a_hub_and_a_home_of_its_own() -> None:
    done = run("run", "--", sys.executable, "-c", SHOW)
    assert done.stderr == ""
    endpoint, home, exists = done.stdout.split()
    assert endpoint.startswith("http://127.0.0.1:")
    assert exists == "True"
    assert not Path(home).exists()


def test_run_keeps_the_home_if_asked(tmp_path: Path) -> None:
    done = run("run", "--keep-home", "--", sys.executable, "-c", SHOW, HF_HOME=str(tmp_path))
    assert str(tmp_path) == done.stdout.split()[1]


def test_run_drops_a_token_the_hub_would_refuse() -> None:
    show = "import os; print(os.environ.get('HF_TOKEN'))"
    outputs = [run("run", "--", sys.executable, "-c", show, HF_TOKEN=token).stdout for token in ("hf_mine", "hf_demo")]
    assert outputs == ["None\n", "hf_demo\n"]


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_run_exits_as_the_command_does(code: str, expected: int) -> None:
    assert expected == run("run", "--", sys.executable, "-c", code).returncode


def test_run_finds_what_is_installed_beside_python() -> None:
    """Nobody has to activate an environment."""
    done = run("run", "--", "hf", "version", PATH="/usr/bin:/bin")
    assert done.returncode == 0, done.stderr


def test_a_missing_command_is_said() -> None:
    done = run("run", "--", "no-such-command")
    assert (done.returncode, done.stderr) == (127, "error: there is no command `no-such-command`\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "Missing argument 'COMMAND...'"),
        (("run", "--scenario", "nope", "--", "true"), "cannot read the scenario `nope`"),
        (("--root", "/no/such/folder"), "does not exist"),
        (("--root", "."), "`.` holds no repos; lay them out as models/ORG/NAME/..."),
        (("--port", "1", "run", "--", "true"), "give options after `run`"),
        (("--frobnicate",), "No such option"),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_shows_examples_and_scenarios() -> None:
    help_text = run("--help").stdout
    assert "python -m mock_server run -- hf download demo/tiny-llama" in help_text
    assert "cut-reset" in help_text
    assert "--keep-home" in run("run", "--help").stdout


def test_a_scenario_reaches_the_command_and_the_ledger_tells(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    code = (
        "import os, urllib.request, urllib.error\n"
        "try: urllib.request.urlopen(os.environ['HF_ENDPOINT'] + '/api/models/demo/tiny-llama')\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    done = run("run", "--scenario", "hub-down", "--ledger", str(ledger), "--", sys.executable, "-c", code)
    assert done.stdout == "503\n"
    assert json.loads(ledger.read_text())["faults"] == ["status"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "models/acme/m").mkdir(parents=True)
    (tmp_path / "models/acme/m/config.json").write_text("{}")
    with subprocess.Popen(
        command("--root", str(tmp_path)), cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        endpoint = next(found[1] for line in lines if (found := re.search(r"HF_ENDPOINT=(\S+)", line)))
        with urllib.request.urlopen(f"{endpoint}/acme/m/resolve/main/config.json") as response:
            assert response.read() == b"{}"
        process.send_signal(number)
        assert process.wait(5) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_to_the_command(number: signal.Signals) -> None:
    code = "import time; print('ready', flush=True); time.sleep(30)"
    with subprocess.Popen(
        command("run", "--", sys.executable, "-c", code),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        # Python turns SIGINT into KeyboardInterrupt and then dies of it, as a good citizen.
        assert 128 + number == process.wait(5)
