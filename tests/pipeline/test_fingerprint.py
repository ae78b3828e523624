"""Digests of what lies outside the store."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.fingerprint import Fingerprints, list_files
from stages.contract import External
from stages.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three files, one of them deeper."""
    folder = tmp_path / "images"
    (folder / "cats").mkdir(parents=True)
    for name, data in (("a.png", b"1"), ("b.png", b"22"), ("cats/c.png", b"333")):
        (folder / name).write_bytes(data)
    return folder


def digest(url: object, kind: str = "listing", *, refresh: bool = True) -> str:
    """The digest of a source as one run sees it."""
    fingerprints = Fingerprints(refresh)
    found = fingerprints.digests({"images": External(str(url), kind)})["images"]
    fingerprints.save()
    return found


def test_a_listing_is_paths_and_sizes_wherever_the_folder_stands(images: Path, tmp_path: Path) -> None:
    before = digest(images)
    assert digest(images.as_uri()) == before
    moved = images.rename(tmp_path / "moved")
    assert digest(moved) == before
    (moved / "a.png").write_bytes(b"x")
    assert digest(moved) == before
    (moved / "a.png").write_bytes(b"xx")
    assert digest(moved) != before


def test_a_new_file_and_a_new_name_change_it(images: Path) -> None:
    before = digest(images)
    (images / "d.png").write_bytes(b"")
    added = digest(images)
    assert added != before
    (images / "d.png").rename(images / "e.png")
    assert digest(images) not in (before, added)


def test_content_sees_a_changed_byte_and_reads_no_file_twice(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import fingerprint

    read: list[str] = []
    sha256 = fingerprint._sha256

    def noted(url: str, path: str) -> str:
        read.append(path)
        return sha256(url, path)

    monkeypatch.setattr(fingerprint, "_sha256", noted)
    before = digest(images, "content")
    assert sorted(read) == ["a.png", "b.png", "cats/c.png"]
    assert digest(images, "content") == before
    assert len(read) == 3
    (images / "a.png").write_bytes(b"x")
    os.utime(images / "a.png", (1, 1))
    assert digest(images, "content") != before
    assert read[3:] == ["a.png"]


def test_without_refresh_what_is_known_is_taken_as_it_is(images: Path) -> None:
    before = digest(images, refresh=False)
    (images / "d.png").write_bytes(b"")
    assert digest(images, refresh=False) == before
    assert digest(images, refresh=True) != before
    assert digest(images, refresh=False) != before


def test_the_users_own_word_is_taken_at_its_word() -> None:
    assert digest("s3://nowhere/at/all", "version-7") == "given:version-7"


def test_other_file_systems_are_listed_by_fsspec_alike(images: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in images.rglob("*.png"):
        memory.pipe(f"/fingerprint/{path.relative_to(images)}", path.read_bytes())
    assert digest("memory://fingerprint") == digest(images)
    assert digest("memory://fingerprint", "content") == digest(images, "content")


def test_one_file_is_a_source_too(images: Path) -> None:
    assert [(file.path, file.size) for file in list_files(str(images / "b.png"))] == [("b.png", 2)]
    assert digest(images / "b.png", "content") != digest(images / "a.png", "content")


def test_a_source_that_is_missing_or_empty_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing of that name.*Check the source's URL"):
        digest(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        digest(tmp_path / "empty")
    with pytest.raises(InputError, match="nosuch"):
        digest("nosuch://a/b")


class Served(BaseHTTPRequestHandler):
    """One file, `/w.pth`."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"abc")

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


def test_one_file_of_a_web_server_is_a_source_too(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/w.pth"
        assert [(file.path, file.size) for file in list_files(url)] == [("w.pth", 3)]
        (tmp_path / "w.pth").write_bytes(b"abc")
        assert digest(url, "content") == digest(tmp_path / "w.pth", "content")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_of_a_folder_only_the_files_that_are_named_count(images: Path) -> None:
    def named(*only: str) -> str:
        return Fingerprints(refresh=True).digests({"images": External(str(images), only=only)})["images"]

    before = named("a.png", "cats/c.png"), named("*.png"), named("*/*.png")
    assert len({*before, digest(images)}) == 4
    (images / "d.txt").write_bytes(b"1")
    assert (named("a.png", "cats/c.png"), named("*.png"), named("*/*.png")) == before
    (images / "cats" / "c.png").write_bytes(b"4444")
    after = named("a.png", "cats/c.png"), named("*.png"), named("*/*.png")
    assert [now == then for now, then in zip(after, before, strict=True)] == [False, True, False]
    with pytest.raises(InputError, match=r"expected 2 files in .*nosuch\.png"):
        named("a.png", "nosuch.png")


def test_digests_are_what_they_have_always_been(images: Path) -> None:
    assert digest(images) == "6e6eb1b5cbcac630132e980a4a7cb02b4dffe0d45d4cd8ea689a2f97cb402874"
    assert digest(images, "content") == "d3de15840331b1ec8ec45c05e2fcddc1e821d02cd252234b21914264aded17d7"


def test_links_that_lead_round_and_names_that_are_no_text_do_no_harm(images: Path) -> None:
    before = digest(images)
    (images / "cats" / "loop").symlink_to(images)
    assert digest(images) == before
    Path(f"{images}/\udcff.png").write_bytes(b"1")
    assert digest(images) != before
