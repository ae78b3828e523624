"""Files by URL: used where they stand or copied, known by their sha256, and missed in words."""

import hashlib
from pathlib import Path

import fsspec
import pytest

from stages.errors import InputError
from stages.files import fetched, fetched_folder


def test_a_file_is_fetched_by_any_url_and_known_by_its_sha256(tmp_path: Path) -> None:
    data = bytes(range(256))
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "w.safetensors").write_bytes(data)
    with fsspec.open("memory://bucket/w.safetensors", "wb") as file:
        file.write(data)
    for url in (str(tmp_path / "w.safetensors"), f"file://{tmp_path}/w.safetensors", "memory://bucket/w.safetensors"):
        with fetched(url, digest) as found:
            assert found.sha256 == {"w.safetensors": digest}
            assert found.path.read_bytes() == data
        with pytest.raises(InputError, match=f"with sha256 {'0' * 64}; found {digest}"), fetched(url, "0" * 64):
            pass
    for missing in (str(tmp_path / "none.pth"), "memory://bucket/none.pth", str(tmp_path)):
        with pytest.raises(InputError, match="a file at"), fetched(missing):
            pass


def test_a_folder_is_fetched_by_any_url(tmp_path: Path) -> None:
    for url in (str(tmp_path / "model"), "memory://models/model"):
        files = fsspec.core.url_to_fs(url)[0]
        files.makedirs(url, exist_ok=True)
        for name in ("config.json", "model.safetensors", "flax_model.msgpack"):
            with fsspec.open(f"{url}/{name}", "wb") as file:
                file.write(b"{}")
        with fetched_folder(url, ("config.json", ".safetensors")) as found:
            assert list(found.sha256) == ["config.json", "model.safetensors"]
            assert (found.path / "config.json").read_bytes() == b"{}"
    for missing in (str(tmp_path / "none"), "memory://models/none"):
        with pytest.raises(InputError, match="a folder at"), fetched_folder(missing, (".json",)):
            pass
