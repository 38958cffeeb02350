"""How commands end: what a user reads, and the exit status."""
import os
import subprocess
import sys

import pytest

from minigrad.check import exit_status, expect
from train import sample


def test_how_a_command_ends(capsys):
    def press():
        raise KeyboardInterrupt
    assert exit_status(lambda: None) == 0 and exit_status(lambda: 3) == 3
    assert exit_status(lambda: expect(False, "--n", 0, "1 or more", "--n 1")) == 2
    assert capsys.readouterr().err == "error: --n: got 0; expected 1 or more. Hint: --n 1\n"
    assert exit_status(lambda: open("/nowhere/at/all")) == 2 and "/nowhere/at/all" in capsys.readouterr().err
    assert exit_status(press) == 130 and capsys.readouterr().err == "\nstopped\n"


def test_no_command_ends_because_a_stream_is_closed_or_knows_no_hindi():
    code = "from minigrad.check import exit_status; import sys; sys.exit(exit_status(lambda: print('दोहा', input)))"
    for before, out in (("PYTHONIOENCODING=ascii", b"\\u0926\\u094b\\u0939\\u093e"), ("PYTHONUTF8=1", "दोहा".encode())):
        done = subprocess.run(f'{before} {sys.executable} -c "{code}"', shell=True, capture_output=True)
        assert done.returncode == 0 and done.stdout.startswith(out), done
    done = subprocess.run(f'{sys.executable} -c "{code}" <&- >&-', shell=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["train.sample --help", "tok stats --help"])
def test_help_in_a_terminal_that_knows_ascii_only(command):
    done = subprocess.run([sys.executable, "-m", *command.split()], capture_output=True, text=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout.startswith("usage:") and not done.stderr


def test_a_sample_that_nobody_reads_on_is_no_error(monkeypatch, capsys):
    def closed(*_):
        raise BrokenPipeError
    monkeypatch.setattr(sample, "write", closed)
    with pytest.raises(BrokenPipeError):                     # exit_status, which main puts around it, is quiet about it
        sample.go(None, None)
    assert capsys.readouterr().err == ""


def test_a_reader_who_has_seen_enough_is_no_error():
    code = "from minigrad.check import exit_status; import sys; sys.exit(exit_status(lambda: print('line\\n' * 99999)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
    process.stderr.close()
