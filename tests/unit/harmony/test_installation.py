"""Which distribution the module `openai_harmony` comes from, and what is said of the wrong one."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from serve_app.harmony.installation import (
    REQUIRED,
    HarmonyInstallationError,
    check_installation,
    installed_versions,
)

ROOT = Path(__file__).parents[3]
REPAIR = f"pip uninstall -y openai-harmony oss-harmony; pip install --no-deps {REQUIRED}"


def distribution(folder: Path, name: str, version: str) -> None:
    """Installs the metadata of a distribution in a folder of `sys.path`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")


def test_openai_harmony_alone_is_what_is_needed() -> None:
    check_installation({"openai-harmony": "0.0.8"})


def test_both_are_named_with_versions_and_the_repair() -> None:
    with pytest.raises(HarmonyInstallationError) as failure:
        check_installation({"openai-harmony": "0.0.8", "oss-harmony": "0.0.11"})
    text = str(failure.value)
    assert text.startswith("openai-harmony 0.0.8 and oss-harmony 0.0.11 are both installed")
    assert REPAIR in text


@pytest.mark.parametrize(
    ("installed", "expected"),
    [({"oss-harmony": "0.0.11"}, "oss-harmony 0.0.11 is installed"), ({}, "it is not installed")],
)
def test_a_missing_openai_harmony_is_said(installed: dict[str, str], expected: str) -> None:
    with pytest.raises(HarmonyInstallationError, match=expected) as failure:
        check_installation(installed)
    assert REPAIR in str(failure.value)


def test_what_is_installed_is_read_from_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "oss-harmony", "0.0.11")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_versions() == {
        "openai-harmony": metadata.version("openai-harmony"),
        "oss-harmony": "0.0.11",
    }


def test_this_environment_has_what_is_needed() -> None:
    check_installation(installed_versions())


def test_the_version_is_that_of_pyproject_toml_and_of_the_lock_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert REQUIRED in project["dependencies"]
    for lock in ("cpu", "gpu"):
        lines = (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines()
        assert REQUIRED in lines
        assert not [line for line in lines if line.startswith("oss-harmony")]
