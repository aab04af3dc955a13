"""The `onetake` command: help, suggestions, and how errors become exit statuses."""

import errno
import os
import signal
import subprocess
import sys
import time
import types

import click
import pytest
from click.testing import CliRunner

from onetake import __version__
from onetake.cli.main import COMMANDS, LazyCommand, LazyGroup, main
from onetake.core.errors import DecodeError, OnetakeError, SpecError
from onetake.storage.base import StorageError


@pytest.fixture
def group(monkeypatch):
    """A group as `main`, with one command, `go`, that raises what is put into `group.error`."""
    module = types.ModuleType("onetake_test_command")

    @click.command()
    @click.option("--loud", is_flag=True)
    def go(loud):
        if group.error is not None:
            raise group.error
        click.echo("LOUD" if loud else "done")

    module.go = go
    group = LazyGroup("onetake", commands={"go": LazyCommand("go", "onetake_test_command:go", "Go.")})
    group.error = None
    monkeypatch.setitem(sys.modules, "onetake_test_command", module)
    return group


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command_in_order(flag):
    result = CliRunner().invoke(main, [flag])
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines()]
    assert listed == list(COMMANDS)


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"onetake {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_can_be_loaded_and_has_help(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"onetake {name}" in result.stdout or f"main {name}" in result.stdout


def test_unknown_command_gets_a_suggestion():
    result = CliRunner().invoke(main, ["indx"])
    assert result.exit_code == 2
    assert "No such command 'indx'" in result.stderr
    assert "index" in result.stderr


def test_command_gets_its_arguments(group):
    result = CliRunner().invoke(group, ["go", "--loud"])
    assert (result.exit_code, result.stdout) == (0, "LOUD\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OnetakeError("no videos in 'v'"), "error: no videos in 'v'\n"),
        (SpecError("stride=0 must be at least 1"), "error: stride=0 must be at least 1\n"),
        (DecodeError("a.mp4", "bad data", 7), "error: video 'a.mp4', frame 7: bad data\n"),
        (
            StorageError(errno.EIO, "EndpointConnectionError", "s3://b/x"),
            "error: s3://b/x can't be reached (EndpointConnectionError): check the address and the connection, and run "
            "the same command again\n",
        ),
    ],
)
def test_error_is_one_line(group, error, line):
    group.error = error
    result = CliRunner().invoke(group, ["go"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)


def test_other_errors_keep_their_traceback(group):
    group.error = ZeroDivisionError()
    assert isinstance(CliRunner().invoke(group, ["go"]).exception, ZeroDivisionError)


def test_interrupt_is_quiet(group):
    group.error = KeyboardInterrupt()
    result = CliRunner().invoke(group, ["go"])
    assert (result.exit_code, result.output) == (130, "")


def test_interrupt_of_a_real_process(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import click, time\n@click.command()\ndef go():\n    print('on', flush=True)\n    time.sleep(60)\n"
    )
    script = (
        "from onetake.cli.main import LazyCommand, main\n"
        "main.add_command(LazyCommand('go', 'slow:go', ''))\n"
        "main(['go'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout.readline() == "on\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
