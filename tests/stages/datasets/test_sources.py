"""A folder of images is listed as a person means it, and where it cannot be, the message says why."""

import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from stages.contract import External
from stages.datasets.sources import DatasetSource, FolderSource, ScenesSource
from stages.errors import InputError
from stages.external.ranges import Unreadable
from stages.images.pixels import encode_png
from stages.listing.stage import Listing
from tests.artifacts import run_stage
from tests.stages.datasets.listed import table

PICTURE = encode_png(np.zeros((4, 4, 3), dtype=np.uint8))


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE)
    return root


def names(root: Path, labels: str = "folders") -> list[str]:
    return list(FolderSource.model_validate({"url": str(root), "labels": labels}).catalogue().names)


def refusal(root: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        FolderSource(url=str(root)).catalogue()
    return str(caught.value)


def test_images_are_sorted_by_path_and_the_first_folder_is_the_class(tmp_path: Path) -> None:
    write(tmp_path, "dog/b.png", "cat/deep/er/a.PNG", "cat/z.jpeg")
    source = FolderSource(url=str(tmp_path))
    catalogue = source.catalogue()
    assert list(catalogue.names) == ["cat/deep/er/a.PNG", "cat/z.jpeg", "dog/b.png"]
    assert list(catalogue.sizes) == [len(PICTURE)] * 3
    assert [(a.name, a.kind, a.classes) for a in catalogue.attributes] == [("class", "class", ("cat", "dog"))]
    values = source.values([0, 1, 2], catalogue.names, catalogue.attributes)
    assert values["class"].tolist() == [0.0, 0.0, 1.0]


def test_hidden_files_are_passed_over_and_other_files_counted(tmp_path: Path) -> None:
    write(
        tmp_path, "a/1.png", "a/.2.png", ".cache/3.png", "a/.git/4.png", "a/notes.txt", "a/x.db", "a/@eaDir/1.png/s.jpg"
    )
    (tmp_path / "README").write_text("Pictures of a.")
    catalogue = FolderSource(url=str(tmp_path)).catalogue()
    assert list(catalogue.names) == ["a/1.png"]
    assert catalogue.passed_over.counts == {".db": 1, ".txt": 1, "hidden": 1, "left by a system": 3, "no ending": 1}
    assert catalogue.passed_over.examples["no ending"] == ["README"]
    assert catalogue.passed_over.examples["hidden"] == ["a/.2.png"]
    assert catalogue.passed_over.examples["left by a system"] == [".cache", "a/.git", "a/@eaDir"]


def test_what_storage_leaves_behind_is_no_class_and_a_class_that_is_hidden_or_empty_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/2.png", "#recycle/a/3.png", "@Recycle/4.png", "a/.@__thumb/1.png", "desktop.ini")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"1")
    assert Listing(source=FolderSource(url=str(tmp_path))).estimate({}).warnings == ()
    assert names(tmp_path) == ["a/1.png", "b/2.png"]
    write(tmp_path, ".NET/1.png", "kept/.gitkeep")
    (tmp_path / "owl" / "deep").mkdir(parents=True)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    first, second = Listing(source=FolderSource(url=str(tmp_path))).estimate({}).warnings
    assert "1 x empty folder (owl/deep/), 1 x hidden (.NET), 1 x no plain file (a/pipe.png)" in first
    assert second == "listing: folders without an image that is read, which are no classes: kept, owl"


def test_classes_without_images_of_a_split_and_names_that_differ_in_case_are_said(tmp_path: Path) -> None:
    for number in range(12):
        picture = encode_png(np.full((4, 4, 3), number, dtype=np.uint8))
        path = tmp_path / ("cat", "Cat", "dog", "dog ")[number % 4] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
    write(tmp_path, "owl/8.png")
    (tmp_path / "owl" / "8.png").write_bytes(b"")
    listing = run_stage(Listing(source=FolderSource(url=str(tmp_path)), holdout=0.5, max_bad=0.5))
    said = listing.summary["headlines"]
    assert "listing: classes of class that differ in case alone are taken apart: Cat and cat" in said
    assert "listing: 1 of 4 classes of class have no sound image: owl" in said
    index = table(listing, "listing.parquet")
    lacks = [
        f"listing: 1 of 4 classes of class have no {word} image: {name}"
        for word, split in (("train", "train"), ("held-out", "heldout"))
        for number, name in enumerate(("Cat", "cat", "dog"))
        if not ((index["attribute.class"] == number) & (index.split == split)).any()
    ]
    assert said[-len(lacks) :] == lacks


@pytest.mark.parametrize("url", ["memory://endings", None])
def test_images_are_known_by_every_ending_and_without_one_by_their_first_bytes(url: str | None, tmp_path: Path) -> None:
    root = url or str(tmp_path)
    files, path = fsspec.core.url_to_fs(root)
    image = Image.new("RGB", (4, 4), (9, 8, 7))
    kinds = {
        "a.jfif": "JPEG",
        "a.jpe": "JPEG",
        "b.PPM": "PPM",
        "c.avif": "AVIF",
        "d.jp2": "JPEG2000",
        "e": "PNG",
        "f": "WEBP",
    }
    for name, kind in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files.makedirs(f"{path}/x", exist_ok=True)
        files.pipe_file(f"{path}/x/{name}", buffer.getvalue())
    files.pipe_file(f"{path}/x/LICENSE", b"Be kind.")
    files.makedirs(f"{path}/lost", exist_ok=True)
    files.pipe_file(f"{path}/lost/1.heic", b"1")
    listing = run_stage(Listing(source=FolderSource(url=root), holdout=0.0))
    assert (listing.summary["rows"], listing.summary["bad"]) == (len(kinds), 0)
    assert listing.summary["ignored"] == {".heic": 1, "no ending": 1}
    first, second, third = listing.summary["headlines"]
    assert second == "listing: class is x wherever it is known"
    assert "2 files or folders are not read, by kind: 1 x .heic (lost/1.heic), 1 x no ending (x/LICENSE)" in first
    assert third == "listing: folders without an image that is read, which are no classes: lost"


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "x.png")
    root = write(tmp_path / "root", "a/1.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (root / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    assert names(root) == ["a/1.png", "a/2.png", "a/gone.png", "linked/x.png"]
    fetched = list(FolderSource(url=str(root)).fetch([0, 2], ["a/1.png", "a/gone.png"]))
    assert fetched[0] == PICTURE
    assert isinstance(fetched[1], Unreadable)


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "endless.png")
    assert names(tmp_path) == ["a/1.png"]


def test_a_missing_permission_stops_the_listing_and_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError("403")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", refuse)
    with pytest.raises(InputError, match=r"no permission to read cat/1\.png"):
        list(FolderSource(url="memory://photos").fetch([0], ["cat/1.png"]))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"a folder of images at {tmp_path}/none; found nothing" in refusal(tmp_path / "none")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    assert "found a file" in refusal(tmp_path / "a.png")


def test_an_empty_folder_says_what_else_it_holds(tmp_path: Path) -> None:
    assert "found none, and 0 other files" in refusal(tmp_path)
    write(tmp_path, "a/1.npy", "a/2.npy", "b.txt")
    assert "found none, and 3 other files (2 x .npy, 1 x .txt)" in refusal(tmp_path)


def test_images_without_class_folders_need_to_say_so(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "2.png", "a/3.png")
    message = refusal(tmp_path)
    assert "2 of 3 images directly in it, such as 1.png" in message
    assert "labels: none" in message
    assert names(tmp_path, labels="none") == ["1.png", "2.png", "a/3.png"]
    assert FolderSource(url=str(tmp_path), labels="none").catalogue().attributes == ()


@pytest.mark.parametrize("other", ["val/cat/2.png", "val/2.png"])
def test_folders_that_divide_a_dataset_are_no_classes(tmp_path: Path, other: str) -> None:
    write(tmp_path, "train/cat/1.png", other)
    assert "the folders train, val, which divide a dataset" in refusal(tmp_path)
    assert names(tmp_path / "train") == ["cat/1.png"]


@pytest.mark.parametrize(
    "folders",
    [
        ("train2017", "val2017"),
        ("Training_Set", "dev"),
        ("trainA", "testA"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("imagesTr", "imagesTs"),
        ("entra\u00eenement", "validation"),
        ("train", "test", "extra"),
    ],
)
def test_folders_that_divide_a_dataset_are_known_by_their_words(tmp_path: Path, folders: tuple[str, ...]) -> None:
    write(tmp_path, *(f"{folder}/{name}/1.png" for folder in folders for name in ("cat", "dog")))
    assert "which divide a dataset" in refusal(tmp_path)


def test_a_folder_around_the_classes_is_no_class(tmp_path: Path) -> None:
    write(tmp_path, "data/images/cat/1.png", "data/images/dog/2.png")
    message = refusal(tmp_path)
    assert "found the folder data/images alone, with cat, dog in it. Name data/images as `url`" in message
    assert names(tmp_path / "data" / "images") == ["cat/1.png", "dog/2.png"]
    write(tmp_path / "beside", "images/cat/1.png", "images/dog/2.png", "masks/cat/1.png", "masks/dog/2.png")
    (note,) = FolderSource(url=str(tmp_path / "beside")).catalogue().notes
    assert note.endswith("although all of them have the same folders in them: cat, dog")


def test_folders_that_only_divide_give_no_class(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "test/2.png")
    assert "the folders test, train, which divide a dataset" in refusal(tmp_path)
    assert names(tmp_path, labels="none") == ["test/2.png", "train/1.png"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write(tmp_path, "train/1.png", "bus/2.png")
    assert names(tmp_path) == ["bus/2.png", "train/1.png"]
    assert FolderSource(url=str(tmp_path)).catalogue().notes == (
        "train is taken for a class, as the other folders are",
    )


def test_a_folder_on_any_file_system_of_fsspec_is_listed_and_read() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("cat/1.png", "dog/2.png", "dog/.hidden/3.png", "dog/list.csv"):
        memory.pipe_file(f"/photos/{name}", PICTURE + name.encode())
    source = FolderSource(url="memory://photos")
    catalogue = source.catalogue()
    assert list(catalogue.names) == ["cat/1.png", "dog/2.png"]
    assert catalogue.passed_over.counts == {".csv": 1, "hidden": 1}
    assert catalogue.passed_over.examples["hidden"] == ["dog/.hidden/3.png"]
    assert list(source.fetch([0, 1], catalogue.names)) == [PICTURE + b"cat/1.png", PICTURE + b"dog/2.png"]
    many = ["cat/1.png", "dog/2.png", "none.png"] * 50
    fetched = list(source.fetch(range(150), many))
    assert fetched[:2] == [PICTURE + b"cat/1.png", PICTURE + b"dog/2.png"]
    assert sum(isinstance(entry, Unreadable) for entry in fetched) == 50
    memory.rm("/photos", recursive=True)


@pytest.mark.parametrize("url", ["nosuch://bucket/photos", "memory://nothing/here"])
def test_a_url_that_cannot_be_opened_is_named(url: str) -> None:
    assert url in refusal(url)


def test_a_local_path_is_made_absolute_and_a_url_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert FolderSource(url="photos").url == f"{tmp_path}/photos"
    assert FolderSource(url="s3://bucket/photos").url == "s3://bucket/photos"


def test_only_folders_read_something_outside_the_store() -> None:
    assert ScenesSource().external() == {}
    assert FolderSource(url="s3://bucket/photos").external() == {"folder": External("s3://bucket/photos", "listing")}


def test_the_kind_says_which_source_is_meant() -> None:
    reader: TypeAdapter[DatasetSource] = TypeAdapter(DatasetSource)
    assert reader.validate_python({"kind": "scenes", "count": 5}) == ScenesSource(count=5)
    assert isinstance(reader.validate_python({"kind": "folder", "url": "/data"}), FolderSource)
    with pytest.raises(ValidationError, match="'scenes', 'folder'"):
        reader.validate_python({"kind": "video"})


def test_the_digest_of_a_run_of_rows_changes_with_its_names_and_sizes(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/2.png", "a/3.png")
    before = FolderSource(url=str(tmp_path)).catalogue()
    assert before.digest(0, 2) == FolderSource(url=str(tmp_path)).catalogue().digest(0, 2)
    (tmp_path / "a" / "2.png").write_bytes(b"longer" * 100)
    after = FolderSource(url=str(tmp_path)).catalogue()
    assert before.digest(0, 2) != after.digest(0, 2)
    assert before.digest(2, 3) == after.digest(2, 3)


def test_scenes_have_names_without_being_listed() -> None:
    catalogue = ScenesSource(count=10**9).catalogue()
    assert len(catalogue.names) == 10**9
    assert catalogue.names[5] == "scene-5"
    assert list(catalogue.names[7:9]) == ["scene-7", "scene-8"]
