"""Roots that cannot be used: each is refused with its remedy, and nothing half-written is left."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.backends import MAX_OBJECT_BYTES, LocalBackend, backend_at
from pipeline.errors import AccessError, FullError, RootError, StoreError, UnansweredError, UsageError, exit_code
from pipeline.store import Store, canonical_url, open_store
from tests.faults.faulty import FaultyBackend, MemoryRoot


def test_opening_and_looking_write_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert store.entries("artifacts") == []
    assert store.folders("runs") == []
    assert list(tmp_path.iterdir()) == []


def test_spellings_of_one_place_are_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("a b") is open_store(f"{tmp_path}/x/../a b/") is open_store((tmp_path / "a b").as_uri())
    assert canonical_url("s3://bucket/path/") == "s3://bucket/path"
    store = open_store("a b")
    store.create("x/y", b"1")
    assert (tmp_path / "a b" / "x" / "y").read_bytes() == b"1"
    assert store.address("x/y") == str(tmp_path / "a b" / "x" / "y")


def test_an_unknown_kind_of_place_is_refused() -> None:
    with pytest.raises(UsageError, match="s3://"):
        open_store("gopher://hole")
    with pytest.raises(UsageError, match="an empty text"):
        open_store("")


def test_what_has_no_name_of_ours_and_folders_without_objects_are_not_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("studies/one/000001.json", b"{}")
    (tmp_path / "studies" / "a writer was killed here").mkdir()
    (tmp_path / "studies" / "and-here" / "below").mkdir(parents=True)
    (tmp_path / "studies" / "old copy").mkdir()
    (tmp_path / "studies" / "old copy" / "000001.json").touch()
    for name in (b"000001 (2).json", b"caf\xe9", b"new\nline"):
        (tmp_path / "studies" / "one" / os.fsdecode(name)).touch()
    for link, target in (("round", ".."), ("itself", "itself"), ("nowhere", "nothing")):
        (tmp_path / "studies" / "one" / link).symlink_to(target)
    os.mkfifo(tmp_path / "studies" / "one" / "pipe")
    with pytest.raises(StoreError, match="a pipe or a device"):
        store.read("studies/one/pipe")
    with pytest.raises(StoreError):
        store.read_range("studies/one/pipe", 0, 1)
    assert store.folders("studies") == ["one"]
    assert [entry.name for entry in store.entries("studies")] == ["studies/one/000001.json"]


def test_a_root_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RootError, match=r"a folder at .*; found a file"):
        open_store(str(tmp_path / "file")).recognise()
    for root in ("file", "file/store"):
        with pytest.raises(RootError, match="name another store") as caught:
            open_store(str(tmp_path / root)).prepare()
        assert exit_code(caught.value) == 2


UNWRITABLE = """
import os, sys
from pipeline.errors import RootError
from pipeline.store import open_store
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open_store(sys.argv[1]).prepare()
except RootError as error:
    print(error)
"""


@pytest.mark.parametrize("root", ["", "below"])
def test_a_root_that_may_not_be_written_is_refused(tmp_path: Path, root: str) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    command = [sys.executable, "-c", UNWRITABLE, str(closed / root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    assert "expected a writable store" in output
    assert "Permission denied" in output
    assert "Change the folder's rights or name another store." in output


@pytest.mark.parametrize(
    ("number", "message"), [(errno.EPERM, r"hard links.*local disk"), (errno.EXDEV, r"on one file system; found")]
)
def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(RootError, match=message):
        open_store(str(tmp_path / "store")).prepare()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Refusing(BaseHTTPRequestHandler):
    """A bucket's server that takes no credentials; `status` and `content` are its answer."""

    status, content = 403, b""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Refuses."""
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def do_PUT(self) -> None:
        """Refuses."""
        self.do_GET()

    def do_POST(self) -> None:
        """Refuses."""
        self.do_GET()


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (401, "Unauthorized"), (400, "ExpiredToken")])
def test_credentials_that_a_server_refuses_are_named_whatever_it_was_asked(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    monkeypatch.setattr(Refusing, "status", status)
    monkeypatch.setattr(Refusing, "content", f"<Error><Code>{code}</Code></Error>".encode())
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name, value in (
            *(("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key"), ("AWS_REGION", "here")),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
        ):
            monkeypatch.setenv(name, value)
        backend = backend_at("s3://bucket/store")
        for ask in (
            lambda: backend.read("a"),
            lambda: backend.create("a", b""),
            lambda: backend.entries("a"),
            lambda: backend.folders("a"),
            lambda: backend.delete("a"),
        ):
            with pytest.raises(AccessError, match=r"Renew the credentials"):
                ask()
        server.shutdown()


class Overwriting(FaultyBackend):
    """A backend that does not create only."""

    def create(self, name: str, data: bytes) -> None:
        self._inner.delete(name)
        self._inner.create(name, data)


def test_a_store_is_probed_again_behind_another_url_or_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    shared = MemoryRoot()
    Store(FaultyBackend(shared.backend), "s3://bucket/store").prepare()
    again = FaultyBackend(shared.backend)
    Store(again, "s3://bucket/store").prepare()
    assert {call.split()[0] for call in again.log} == {"read", "head"}
    for url, endpoint in (("s3://copy/store", "http://127.0.0.1:1"), ("s3://bucket/store", "http://127.0.0.1:2")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(RootError, match=r"refuse to create an object twice.*conditional writes"):
            Store(Overwriting(shared.backend), url).prepare()
        moved = FaultyBackend(shared.backend)
        Store(moved, url).prepare()
        assert "create" in {call.split()[0] for call in moved.log}


def test_a_place_that_overwrites_is_refused() -> None:
    shared = MemoryRoot()
    with pytest.raises(RootError, match=r"refuse to create an object twice.*conditional writes"):
        Store(Overwriting(shared.backend), shared.url).prepare()
    assert shared.objects("probes") == {}
    assert "store.json" not in shared.objects("")


def test_a_newer_or_foreign_store_is_refused(tmp_path: Path) -> None:
    for number, text in enumerate(('{"format": 2}', "[1]", "not json")):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "store.json").write_text(text)
        with pytest.raises(RootError, match=r"[Nn]ame another store"):
            open_store(str(root)).prepare()


FULL = """
import resource, sys
from pipeline.errors import FullError
from pipeline.store import open_store
store = open_store(sys.argv[1])
store.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.create("artifacts/x", b"1" * 100_000)
except FullError as error:
    print(error)
"""


def test_a_write_that_does_not_fit_leaves_nothing_of_that_name(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FULL, str(tmp_path / "store")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout
    assert "expected room for another object" in output
    assert "Free some space, then run the same command again" in output
    assert open_store(str(tmp_path / "store")).entries("artifacts") == []
    assert list((tmp_path / "store" / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, FullError), (errno.EDQUOT, FullError), (errno.EROFS, RootError), (errno.EIO, UnansweredError)],
)
def test_what_a_disk_says_has_a_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=os.strerror(number)):
        LocalBackend(tmp_path).create("a", b"1")
    assert not (tmp_path / "a").exists()


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(tmp_path)}")
        fsync(descriptor)

    def noted_link(source: Path, target: Path) -> None:
        done.append(f"link {target.relative_to(tmp_path)}")
        link(source, target)

    backend = LocalBackend(tmp_path)
    backend.create("first", b"")
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    backend.create("a/b/c", b"1")
    assert done[0].startswith("fsync .staging/")
    assert done[1:] == ["fsync .", "fsync a", "link a/b/c", "fsync a/b"]


def test_an_object_above_the_limit_is_refused(tmp_path: Path) -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return MAX_OBJECT_BYTES + 1

    with pytest.raises(StoreError, match="Cut it into several"):
        open_store(str(tmp_path)).create("a", Large())


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\\b", "a b", "a#1"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="object names of letters"):
        open_store(str(tmp_path)).create(name, b"")


def test_what_killed_writers_left_is_swept_a_day_later(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.create("a", b"")
    staging = tmp_path / "store" / ".staging"
    (staging / "old").write_bytes(b"1")
    (staging / "new").write_bytes(b"1")
    os.utime(staging / "old", (1, 1))
    store.prepare()
    assert [path.name for path in staging.iterdir()] == ["new"]
