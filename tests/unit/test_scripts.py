"""The scripts' answers to machines and arguments that they cannot work with, and the port check."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# Found by the scripts before anything is installed.
TOOLS = ["bash", "basename", "cat", "dirname", "flock", "grep", "mkdir", "sed", "sha256sum", "uname"]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with nothing but basic tools; tests add the programs that the machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        if path := shutil.which(name):
            (folder / name).symlink_to(path)
    return folder


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def run(script: str, *arguments: str, path: Path | None = None, **environment: str) -> tuple[int, str]:
    """Run a script from elsewhere; return its exit status and what it said."""
    settings = {**os.environ, "SERVE_HARDWARE": "cpu", **environment}
    if path:
        settings |= {"PATH": str(path), "SERVE_VENV": str(path.parent / "venv")}
    done = subprocess.run(
        [ROOT / "scripts" / script, *arguments],
        cwd="/",
        env=settings,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stderr


def test_an_old_python_is_named(machine: Path) -> None:
    program(machine, "python3", '[[ $1 == --version ]] && echo "Python 3.9.2" || exit 1')
    status, said = run("environment", path=machine)
    assert status == 1
    assert "needs Python 3.11 to 3.14, and 'python3' is Python 3.9.2" in said
    assert not (machine.parent / "venv").exists()


def test_a_missing_python_is_named(machine: Path) -> None:
    status, said = run("environment", path=machine)
    assert status == 1
    assert "'python3' is missing" in said


def test_a_chosen_python_is_not_replaced_by_another(machine: Path) -> None:
    (machine / "python3").symlink_to(sys.executable)
    status, said = run("environment", path=machine, SERVE_PYTHON="python3.9")
    assert status == 1
    assert "'python3.9' is missing" in said


def test_missing_system_packages_are_named_together(machine: Path) -> None:
    # A Python of the right version, without ensurepip, headers and libnuma, on a machine without apt and g++.
    answers = "*sys.executable*) echo python3;; *%d.%d*) echo 3.12;; *) exit 1;;"
    program(machine, "python3", f"case $2 in *version_info\\ \\<*) ;; {answers} esac")
    status, said = run("environment", path=machine)
    assert status == 1
    assert "sudo apt-get install python3.12-venv python3.12-dev g++ libnuma1" in said


def test_a_folder_that_is_no_environment_is_left_alone(machine: Path) -> None:
    (machine.parent / "venv").mkdir()
    (machine.parent / "venv" / "thesis.txt").write_text("mine")
    program(
        machine,
        "python3",
        "case $2 in *sys.executable*) echo python3;; *%d.%d*) echo 3.12;; esac",
    )
    program(machine, "g++", "")
    status, said = run("environment", path=machine)
    assert status == 1
    assert "exists and is not a virtual environment" in said
    assert (machine.parent / "venv" / "thesis.txt").read_text() == "mine"


def test_unknown_hardware_is_refused() -> None:
    status, said = run("environment", SERVE_HARDWARE="tpu")
    assert status == 1
    assert "SERVE_HARDWARE is 'tpu'; it must be gpu or cpu" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "8000"], "unknown argument: --prot"),
        (["--port"], "--port needs a value"),
        (["--port", "80000"], "--port is '80000'; it must be 1 to 65535"),
        (["--port=http"], "--port is 'http'; it must be 1 to 65535"),
        (["--config", "/no/such.yaml"], "no such file: /no/such.yaml"),
    ],
)
def test_serve_refuses_wrong_arguments_before_it_installs(
    machine: Path, arguments: list[str], message: str
) -> None:
    status, said = run("serve", *arguments, path=machine)
    assert status == 1
    assert message in said
    assert not (machine.parent / "venv").exists()


def listen(config: Path, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, str(ROOT / "scripts" / "listen.py"), str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def taken() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def test_a_taken_port_is_said_with_its_holder(tmp_path: Path, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    config = tmp_path / "config.yaml"
    config.write_text(f"http_options: {{host: 127.0.0.1, port: {port}}}\n")
    with taken:
        status, out, said = listen(config)
    assert (status, out) == (1, "")
    assert said.startswith(f"port {port} is taken by process {os.getpid()} (")
    assert said.endswith("stop it, or choose another with --port")


@pytest.mark.parametrize("quote", ["", "'"])
def test_a_free_port_leaves_the_config_as_it_is(tmp_path: Path, taken: socket.socket, quote: str) -> None:
    port = taken.getsockname()[1]
    taken.close()
    config = tmp_path / "config.yaml"
    config.write_text(f"http_options: {{port: {quote}{port}{quote}}}\n")
    assert listen(config) == (0, str(config), "")


def test_another_port_is_written_to_another_file(tmp_path: Path, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    taken.close()
    config, out = tmp_path / "config.yaml", tmp_path / "out.yaml"
    text = "http_options: {host: 127.0.0.1, port: 1}\napplications: [{name: a}]\n"
    config.write_text(text)
    assert listen(config, "--port", str(port), "--out", str(out)) == (0, str(out), "")
    assert yaml.safe_load(out.read_text()) == {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{"name": "a"}],
    }
    assert config.read_text() == text
