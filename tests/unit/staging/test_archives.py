"""A folder there and back, and everything that an archive must not do."""

from __future__ import annotations

import copy
import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.staging import archives
from serve_app.staging.archives import ChangedFileError, UnsafeArchiveError

ROOM = 10**9
LONG = "/".join(["a-folder-with-a-long-name"] * 8)


def make_tar(path: Path, *members: tarfile.TarInfo, content: bytes = b"x") -> Path:
    """An archive as somebody else may write it."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            if member.type == tarfile.REGTYPE:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                tar.addfile(member)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def test_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, content in {"vllm/a": b"", "triton/k/b.cubin": bytes(3_000_000), f"{LONG}/ü": b"1"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    (source / "vllm/a").chmod(0o700)
    # What a float of seconds cannot hold.
    os.utime(source / "vllm/a", ns=(1, 1_795_470_339_840_636_933))
    paths = archives.files_of(source, lambda path: True)
    assert paths == [f"{LONG}/ü", "triton/k/b.cubin", "vllm/a"]
    assert archives.pack(source, paths, tmp_path / "archive") == 3_000_001
    assert archives.unpack(tmp_path / "archive", tmp_path / "target", ROOM) == paths
    assert archives.files_of(tmp_path / "target", lambda path: True) == paths
    for path in paths:
        before, after = (source / path).stat(), (tmp_path / "target" / path).stat()
        assert (tmp_path / "target" / path).read_bytes() == (source / path).read_bytes()
        assert after.st_mtime_ns == before.st_mtime_ns
        assert bool(after.st_mode & 0o111) == (path == "vllm/a")


def test_paths_are_sorted_whatever_their_depth(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c", "b/x", "a"):
        (tmp_path / name).write_text("")
    assert archives.files_of(tmp_path, lambda path: path != "a") == ["b/x", "c"]


def test_equal_files_give_equal_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b") if folder == "one" else ("b", "a"):
            (tmp_path / folder / name).write_text(name)
            os.utime(tmp_path / folder / name, ns=(7, 7))
        paths = archives.files_of(tmp_path / folder, lambda path: True)
        archives.pack(tmp_path / folder, paths, tmp_path / f"{folder}.archive")
        # A gzip file can hold the time at which it was written.
        monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    assert (tmp_path / "one.archive").read_bytes() == (tmp_path / "two.archive").read_bytes()


def test_only_regular_files_are_packed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("")
    (source / "link").symlink_to(tmp_path / "outside/secret")
    (source / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(source / "fifo")
    assert archives.files_of(source, lambda path: True) == ["file"]


def replace(path: Path) -> None:
    path.with_name("new").write_text("another")
    path.with_name("new").replace(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: os.truncate(path, 10), "became shorter"),
        (lambda path: path.write_bytes(bytes(4_000_000)), "has changed"),
        (lambda path: os.utime(path), "has changed"),
        (replace, "has changed"),
    ],
)
def test_files_that_change_meanwhile(
    tmp_path: Path, change: Callable[[Path], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    os.utime(tmp_path / "file", ns=(7, 7))
    add = tarfile.TarFile.addfile

    def addfile(tar: tarfile.TarFile, info: tarfile.TarInfo, file: io.BufferedReader) -> None:
        if says != "is gone":
            change(tmp_path / "file")
        add(tar, info, file)

    monkeypatch.setattr(tarfile.TarFile, "addfile", addfile)
    if says == "is gone":
        change(tmp_path / "file")
    with pytest.raises(ChangedFileError, match=says):
        archives.pack(tmp_path, ["file"], tmp_path / "archive")


MALICIOUS = {
    "absolute": member("ABSOLUTE/outside"),
    "parent": member("../outside"),
    "parent inside": member("vllm/../../outside"),
    "dot": member("./vllm/a"),
    "empty part": member("vllm//a"),
    "folder outside": member("../folder", tarfile.DIRTYPE),
    "symlink": member("vllm/a", tarfile.SYMTYPE, "/etc/passwd"),
    "symlink inside": member("vllm/a", tarfile.SYMTYPE, "b"),
    "hard link": member("vllm/a", tarfile.LNKTYPE, "/etc/passwd"),
    "character device": member("vllm/a", tarfile.CHRTYPE),
    "block device": member("vllm/a", tarfile.BLKTYPE),
    "fifo": member("vllm/a", tarfile.FIFOTYPE),
    "contiguous": member("vllm/a", tarfile.CONTTYPE),
    "sparse": member("vllm/a", tarfile.GNUTYPE_SPARSE),
    "setuid": member("vllm/a", mode=0o4755),
    "setgid": member("vllm/a", mode=0o2755),
    "sticky": member("vllm/a", mode=0o1755),
    "setgid folder": member("vllm/a", tarfile.DIRTYPE, mode=0o2755),
}


def malicious(name: str, outside: Path) -> tarfile.TarInfo:
    """The member; an absolute one leads to the folder `outside`."""
    info = copy.copy(MALICIOUS[name])
    info.name = info.name.replace("ABSOLUTE", str(outside))
    return info


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_members(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inside/target"
    archive = make_tar(tmp_path / "archive", member("vllm/first"), malicious(name, tmp_path))
    with pytest.raises(UnsafeArchiveError):
        archives.unpack(archive, folder, ROOM)
    written = {path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert written == {archive, folder / "vllm/first"}


def test_a_file_through_a_link_of_the_same_archive(tmp_path: Path) -> None:
    link = member("vllm/out", tarfile.SYMTYPE, str(tmp_path))
    with pytest.raises(UnsafeArchiveError):
        archives.unpack(
            make_tar(tmp_path / "archive", link, member("vllm/out/gotcha")), tmp_path / "target", ROOM
        )
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize("time", ["soon", "1e999", "NaN", "-1e30"])
def test_a_time_that_is_none(tmp_path: Path, time: str) -> None:
    info = member("vllm/a")
    info.pax_headers = {"mtime": time}
    archive = make_tar(tmp_path / "archive", info)
    with pytest.raises(archives.BROKEN):
        archives.unpack(archive, tmp_path / "target", ROOM)


def test_a_member_twice(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive", member("vllm/a"), member("vllm/a"))
    with pytest.raises(UnsafeArchiveError, match="twice"):
        archives.unpack(archive, tmp_path / "target", ROOM)


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive", member("vllm/a"), member("vllm/b"), content=bytes(600))
    assert archives.unpack(archive, tmp_path / "fits", 1200) == ["vllm/a", "vllm/b"]
    with pytest.raises(OSError, match="No space left"):
        archives.unpack(archive, tmp_path / "target", 1199)
    assert not (tmp_path / "target/vllm/b").exists()


def test_more_than_any_cache_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side lets it pass: what cannot be unpacked is not published."""
    archive = make_tar(tmp_path / "archive", member("vllm/a"), member("vllm/b"), content=bytes(600))
    paths = archives.unpack(archive, tmp_path / "fits", ROOM)
    monkeypatch.setattr(archives, "MAX_BYTES", 1199)
    # However little room there is.
    with pytest.raises(UnsafeArchiveError, match="more than 1,199 bytes"):
        archives.unpack(archive, tmp_path / "target", 1199)
    assert not (tmp_path / "target/vllm/b").exists()
    with pytest.raises(UnsafeArchiveError, match="more than 1,199 bytes"):
        archives.pack(tmp_path / "fits", paths, tmp_path / "another")
