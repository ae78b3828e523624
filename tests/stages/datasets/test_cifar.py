"""CIFAR-10's binary version becomes a listing and shards, from a folder or the archive."""

import numpy as np

from stages.images import image_file
from tests.stages.datasets.listed import both, declared, fill, refusal, table
from tests.stages.datasets.written import (
    CIFAR_CLASSES,
    cifar_archive,
    cifar_files,
)


def test_cifar_is_the_same_in_a_folder_and_in_the_archive(root: str) -> None:
    files = cifar_files()
    fill(root, {f"cifar-10-batches-bin/{name}": data for name, data in files.items()})
    fill(root, {"cifar-10-binary.tar.gz": cifar_archive(files)})
    listing, shards, images = both(kind="cifar10", url=f"{root}/cifar-10-batches-bin")
    packed = both(kind="cifar10", url=f"{root}/cifar-10-binary.tar.gz")
    assert packed[1].objects == shards.objects
    index = table(shards)
    assert index.split.tolist() == ["train"] * 30 + ["heldout"] * 6
    assert declared(shards) == {"class": ("class", CIFAR_CLASSES)}
    record = np.frombuffer(files["data_batch_2.bin"], np.uint8).reshape(-1, 3073)[3]
    assert np.array_equal(image_file.decode(images[9]), record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert index["attribute.class"][9] == record[0]
    assert index.file_name[9] == "data_batch_2.bin/3"
    assert {"heldout", "train"} == set(
        table(both(kind="cifar10", url=f"{root}/cifar-10-batches-bin", split="content")[1]).split[:30]
    )
    assert listing.summary["heldout"] == 6


def test_what_is_not_cifars_binary_version_is_reported_as_such(root: str) -> None:
    files = cifar_files()
    message = refusal(kind="cifar10", url=fill(root, {k: v for k, v in files.items() if "5" not in k}))
    assert "the folder cifar-10-batches-bin with its six batches" in message
    assert "no data_batch_5.bin" in message
    fill(root, files | {"data_batch_5.bin": files["data_batch_5.bin"][:-1]})
    assert "records of 3073 bytes (the published files have 10 000) in data_batch_5.bin; found 18437 bytes" in refusal(
        kind="cifar10", url=root
    )
    archive = cifar_archive({"data_batch_1": b"pickle"})
    fill(root, {"a.tar.gz": archive, "b.tar.gz": cifar_archive(files)[:9000]})
    assert "the one for Python is made of pickles" in refusal(kind="cifar10", url=f"{root}/a.tar.gz")
    assert "a whole archive in b.tar.gz; found EOFError" in refusal(kind="cifar10", url=f"{root}/b.tar.gz")


def test_a_label_beyond_the_ten_classes_makes_a_bad_row(root: str) -> None:
    files = cifar_files()
    files["data_batch_1.bin"] = b"\xff" + files["data_batch_1.bin"][1:]
    fill(root, files)
    _, shards, _ = both(kind="cifar10", url=root, max_bad=0.1)
    assert table(shards).status[0] == "class 255, of 10"
