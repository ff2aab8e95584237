"""The command line's surface is frozen; its conventions hold for every command."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import typer

from okrcell.cli import app

GOLDEN = Path(__file__).parent / "golden" / "cli.json"


def commands(command: click.Command, name: str = "okrcell") -> dict[str, list[str]]:
    """Return every command with its parameters, as the user types them."""
    if hasattr(command, "commands"):
        found = {}
        for sub, child in command.commands.items():
            found |= commands(child, f"{name} {sub}")
        return found
    return {name: sorted("/".join(p.opts) for p in command.params if p.name != "help")}


def test_options_are_frozen():
    """A change here changes what scripts rely on: update the golden file and the changelog."""
    assert commands(typer.main.get_command(app)) == json.loads(GOLDEN.read_text())


def test_conventions():
    for name, options in json.loads(GOLDEN.read_text()).items():
        stage = name.split()[1]
        if stage in {"corpus", "enrich", "train", "evaluate"} and name.split()[-1] not in {"tasks"}:
            assert not options[-1].startswith("-"), f"{name} has no positional"
        assert not any("_" in option for option in options if option.startswith("--")), name


def test_version_and_wrong_words(okrcell):
    import okrcell as package

    assert okrcell("--version").stdout.strip() == f"okrcell {package.__version__}"
    assert okrcell("corpsu").returncode == 2
    assert okrcell("train", "run").returncode == 2


def test_an_interrupt_says_how_to_go_on(tmp_path):
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "import okrcell.corpus.build as build\n"
        "build.init_store = lambda store: (print('ready', flush=True), time.sleep(60))\n"
        "from okrcell.cli import main\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "corpus", "init", str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in message
    assert "Traceback" not in message
