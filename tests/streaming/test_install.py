"""The installer of the stream tests, with a Debian of ours in place of the real one."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).with_name("install.sh")
pytestmark = pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="the bindings are the system's Python's")
REFUSES = 'case "$*" in *install*) echo "E: Temporary failure resolving"; exit 100;; esac'


@pytest.fixture
def debian(tmp_path):
    """Runs the installer: debian(apt="exit 100", user=1000); gives how it ended, and apt-get's arguments."""
    tools = tmp_path / "bin"
    tools.mkdir()

    def tool(name, script):
        path = tools / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def run(has=(), apt="", user=0, sudo="exit 1", python='[ "$2" = "import gi" ]'):
        calls = tmp_path / "calls"
        tool("dpkg-query", f'case " {" ".join(has)} " in *" ${{@: -1}} "*) echo -n installed;; *) exit 1;; esac')
        tool("apt-get", f'echo "$DEBIAN_FRONTEND $* $(cat | wc -c)" >> {calls}\n{apt}')
        tool("id", f"echo {user}")
        tool("sudo", sudo)
        environment = {"PATH": f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(tmp_path)}
        ended = subprocess.run(
            ["bash", str(INSTALL), str(tool("python", python))],
            capture_output=True, text=True, env=environment, input="y\ny\n", timeout=60,
        )  # fmt: skip
        return ended, calls.read_text().splitlines() if calls.exists() else []

    return run


def everything():
    text = INSTALL.read_text()
    return text[text.index("packages=(") + len("packages=(") : text.index(")", text.index("packages=("))].split()


def line_of(ended):
    assert ended.returncode == 1
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("make test-stream: ")
    return line


def test_where_all_is_installed_nothing_is_fetched(debian):
    ended, calls = debian(has=everything())
    assert (ended.returncode, ended.stderr, calls) == (0, "", [])


def test_what_is_missing_is_installed_without_a_question(debian):
    has = [name for name in everything() if name not in ("xvfb", "python3-gi")]
    ended, calls = debian(has=has)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(calls) == 2
    assert all(call.startswith("noninteractive ") and call.endswith(" 0") for call in calls)  # nothing to answer with
    assert calls[1].endswith(" install -y --no-install-recommends python3-gi xvfb 0")


def test_an_archive_that_is_not_reached_need_not_be_the_one(debian):
    ended, calls = debian(apt='case "$*" in *update*) exit 100;; esac')
    assert (ended.returncode, len(calls)) == (0, 2)


def test_without_a_network_one_line_says_what_to_type(debian):
    ended, _ = debian(has=everything()[1:], apt=REFUSES)
    line = line_of(ended)
    assert "apt-get fails (E: Temporary failure resolving)" in line
    assert line.endswith(f"with a network, as root: apt-get install --no-install-recommends {everything()[0]}")


def test_no_password_is_asked_for(debian):
    ended, calls = debian(has=everything()[1:], user=1000)
    assert line_of(ended).endswith(f"sudo wants a password; type, as root: apt-get install --no-install-recommends "
                                   f"{everything()[0]}")  # fmt: skip
    assert calls == []


def test_who_may_become_root_does(debian):
    ended, calls = debian(user=1000, sudo='[ "$1" = -n ] && shift && exec "$@"')
    assert (ended.returncode, len(calls)) == (0, 2)


def test_another_python_than_the_system_s_is_told_what_to_type(debian):
    other = 'case "$2" in "import gi") exit 1;; *version_info*) echo 3.99;; esac'
    ended, _ = debian(has=everything(), python=other)
    line = line_of(ended)
    assert "Python 3.99 cannot load gi of Debian's " in line
    assert line.endswith("type: make test-stream VENV=.venv-debian PYTHON=/usr/bin/python3")


def test_the_bindings_are_linked_where_the_version_is_the_same(debian, tmp_path):
    same = subprocess.run(["/usr/bin/python3", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    python = f'case "$2" in "import gi") [ -L {tmp_path}/gi ];; *version_info*) echo {same};; *) echo {tmp_path};; esac'
    ended, _ = debian(has=everything(), python=python)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "gi").readlink() == Path("/usr/lib/python3/dist-packages/gi")
