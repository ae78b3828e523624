"""Everything in a bucket: images in tars or Parquet, an encoder's weights, the store; worked on by Ray."""

import io
import json
import secrets
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from safetensors.torch import save

from tests.digits import write_digits
from tests.finished import STUDIES, repscope
from tests.system.s3 import BUCKET, S3Server, access

pytestmark = pytest.mark.system

COUNT, FILES = 200, 2


def tars(images: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """Digits as WebDataset tars: an image and its class side by side."""
    files = {}
    for number in range(FILES):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for key, (label, data) in enumerate(images[number::FILES]):
                for ending, content in (("png", data), ("cls", label.encode())):
                    member = tarfile.TarInfo(f"{number}-{key:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        files[f"digits-{number}.tar"] = sink.getvalue()
    return files


def parquet(images: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """Digits in Hugging Face's layout: a column of image structs and one of classes."""
    files = {}
    for number in range(FILES):
        own = images[number::FILES]
        column = [{"bytes": data, "path": None} for _, data in own]
        sink = io.BytesIO()
        pq.write_table(pa.table({"image": column, "label": [int(label) for label, _ in own]}), sink)
        files[f"digits-{number}.parquet"] = sink.getvalue()
    return files


@pytest.mark.parametrize(
    ("write", "source", "attribute"),
    [
        (tars, {"kind": "webdataset", "url": "digits-{0..1}.tar"}, "class"),
        (parquet, {"kind": "parquet", "url": "digits-*.parquet", "columns": {"label": "class"}}, "label"),
    ],
)
def test_a_study_of_images_in_a_bucket_runs_on_ray_with_its_store_there_too(
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Any,
    source: dict[str, Any],
    attribute: str,
) -> None:
    write_digits(tmp_path / "images", COUNT)
    images = [(path.parent.name, path.read_bytes()) for path in sorted(tmp_path.glob("images/*/*.png"))]
    root = f"{BUCKET}/{secrets.token_hex(4)}"
    torch.manual_seed(0)
    weights = save(timm.create_model("test_vit", img_size=32).state_dict())
    server = fsspec.filesystem("s3", endpoint_url=s3_server.url, key="someone", secret="secret")
    for name, data in (write(images) | {"vit.safetensors": weights}).items():
        server.pipe_file(f"{root}/{name}", data)

    document = yaml.safe_load((STUDIES / "digits_timm.yaml").read_text())
    document["dataset"]["listing"]["source"] = source | {"url": f"s3://{root}/{source['url']}"}
    document["encoders"]["vit"]["weights"] = f"s3://{root}/vit.safetensors"
    document["questions"] = {"kept": {"shown": 4}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    words = (tmp_path / "study.yaml", "--store", f"s3://{root}/store")
    for name, value in (*access(s3_server.url).items(), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    repscope("run", *words, "--executor", "ray")

    states = json.loads(repscope("status", *words, "--json", "--check").stdout)
    assert {state["state"] for state in states} == {"done"}
    folders = {state["name"]: state["url"].removeprefix("s3://") for state in states}
    index = pd.read_parquet(io.BytesIO(server.cat_file(f"{folders['shards']}/index.parquet")))
    assert (len(index), set(index.status)) == (COUNT, {"ok"})
    results = pd.read_parquet(io.BytesIO(server.cat_file(f"{folders['kept']}/results.parquet")))
    assert attribute in set(results.subject)
    assert b"vit:blocks.2" in server.cat_file(f"{folders['report']}/report.html")
    receipts = [json.loads(server.cat_file(path)) for path in server.glob(f"{folders['embeddings.vit']}/parts/*.json")]
    assert {receipt["executor"] for receipt in receipts} == {"ray"}
