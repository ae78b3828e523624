"""Encoders of users in a study: a few lines, checked before anything is built, in the key by what they hold."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from cluster.inline import Inline
from cluster.on_ray import OnRay
from pipeline.artifact import StoredInput
from pipeline.errors import UsageError
from pipeline.fingerprint import Fingerprints
from pipeline.graph import graph_of
from pipeline.key import Key, digest_of
from pipeline.manifest import open_generation, survey
from pipeline.plan import StepState, keys_of, plan
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import open_store
from pipeline.study import Study, load, taps_of
from stages.contract import Estimate
from stages.embeddings.stage import Embeddings
from stages.encoders.imported import build, read
from stages.encoders.sources.settings import Hf, Override, PublishedEncoder, Timm, Torchvision
from stages.encoders.spec import Pretrained
from stages.encoders.stage import Imported
from stages.errors import InputError
from stages.external import code


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights of timm's `test_vit`, and a cache of its own for digests."""
    import timm

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


def study(tmp_path: Path, encoder: Any, *taps: str) -> Study:
    document = {
        "study": "mine",
        "dataset": {"listing": {"source": {"kind": "scenes", "count": 16}}},
        "encoders": {"net": encoder},
        "decoder": {"taps": list(taps) or ["net:backbone"]},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return load(str(tmp_path / "study.yaml"))


def imported(tmp_path: Path, encoder: Any) -> Imported:
    found = study(tmp_path, encoder).encoders["net"]
    assert isinstance(found, Imported)
    return found


def test_the_short_form_and_the_long_one_are_one(tmp_path: Path) -> None:
    long = imported(tmp_path, {"kind": "timm", "name": "resnet50", "weights": "s3://bucket/r50.safetensors"})
    assert imported(tmp_path, "timm:resnet50@s3://bucket/r50.safetensors") == long
    assert imported(tmp_path, f"hf:{tmp_path}/dinov2").source == Hf(path=str(tmp_path / "dinov2"))
    assert imported(tmp_path, "hf:s3://bucket/dinov2").source == Hf(path="s3://bucket/dinov2")
    assert imported(tmp_path, "torch:package.nets:make").source.kind == "torch"
    published = imported(tmp_path, "released:dino@/files/dino.pth")
    assert published.source == PublishedEncoder(method="dino", weights="/files/dino.pth")
    assert Imported.model_validate_json(published.model_dump_json()) == published


def test_relative_paths_mean_the_same_wherever_a_part_is_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = imported(tmp_path, "timm:resnet50@r50.pth").source
    assert isinstance(found, Timm)
    assert found.weights == str(tmp_path / "r50.pth")
    assert imported(tmp_path, "torch:nets.py:make").source.external()["code"].url == str(tmp_path / "nets.py")
    assert (
        imported(tmp_path, {"kind": "hf", "path": "org/model", "pretrained": True}).source.external()["hub"].digest
        == "org/model@main"
    )


def test_taps_are_known_before_the_network_is(tmp_path: Path) -> None:
    stage = imported(tmp_path, {"kind": "timm", "name": "x", "untrained": True} | TAPS)
    assert taps_of(stage) == ("backbone", "layer3", "early")
    assert stage.taps["layer3"].pool == "mean"
    assert stage.taps["early"].pool == "auto"
    published = imported(tmp_path, "released:vicreg@x.pth")
    assert taps_of(published) == ("backbone", "projector.0", "projector.1", "projector")
    assert study(tmp_path, "released:vicreg@x.pth", "net:projector.1").decoder.taps == ("net:projector.1",)
    with pytest.raises(UsageError, match=r"taps of net: backbone, layer3, early; found 'net:layer4'.*'layer3'"):
        study(tmp_path, {"kind": "timm", "name": "x", "untrained": True} | TAPS, "net:layer4")


TAPS = {"taps": {"layer3": "layer3@mean", "early": {"module": "layer1"}}}


@pytest.mark.parametrize(
    ("encoder", "why"),
    [
        ("timm:resnet50", r"expected one of weights .* and untrained: true.*would leave weights to chance"),
        ({"kind": "timm", "nam": "x"}, r"'encoders\.net\.name' is missing; unknown field 'encoders\.net\.nam'.*'name'"),
        ({"kind": "torchvision", "name": "x", "weights": "a", "pretrained": True}, "found weights and pretrained"),
        ({"kind": "tim"}, "expected kind to be one of pretrain, untrained, oracle, timm, hf.*found 'tim'"),
        ("resnet50", "a short form such as timm:resnet50@weights.pth; found 'resnet50'"),
        (7, "a short form such as"),
        ({"kind": "released", "method": "simclr"}, "expected weights, the URL of the checkpoint"),
        ({"kind": "hf", "path": "x", "taps": {"backbone": "y"}}, "another name than backbone, projector"),
        ({"kind": "hf", "path": "x", "taps": {"a/b": "y"}}, "names of taps to match"),
        ({"kind": "hf", "path": "x", "taps": ["a@max"]}, "'auto', 'cls', 'mean', 'registers' or 'flatten'"),
        ({"kind": "hf", "path": "x", "trust_remote_code": True}, r"unknown field 'encoders\.net\.trust_remote_code'"),
        ({"kind": "hf", "path": "x", "preprocessing": {"sise": 3}}, "unknown field.*did you mean 'size'"),
        ({"kind": "hf", "path": "x", "sha256": "1"}, "unknown field"),
        ({"kind": "timm", "name": "hf-hub:x/y", "untrained": True}, "should match pattern"),
    ],
)
def test_what_is_wrong_is_reported_before_anything_is_built(encoder: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        study(tmp_path, encoder)


def test_an_encoder_is_imported_before_an_image_is_read(tmp_path: Path) -> None:
    steps = [step.name for step in graph_of(study(tmp_path, {"kind": "timm", "name": "x", "untrained": True}))]
    assert steps[:4] == ["encoder.net", "listing", "shards", "embeddings.net"]


IMAGES = Estimate(rows=1000, size_bytes=0, cpu_seconds=0)


def seconds(stage: Imported) -> float:
    """Estimated for embedding a thousand images, in one view."""
    upstream = {"images": IMAGES, "encoder": stage.estimate({})}
    return Embeddings(encoder=Pretrained(), views=("plain",)).estimate(upstream).cpu_seconds


def test_an_estimate_knows_a_large_encoder_by_its_weights_and_its_images(tmp_path: Path) -> None:
    for name, millions in (("small.pth", 1), ("large.pth", 25)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(4_000_000 * millions)
    small, large = (imported(tmp_path, f"timm:x@{tmp_path}/{name}") for name in ("small.pth", "large.pth"))
    # A ResNet-50 took 66 ms an image.
    assert 60 < seconds(large) < 80
    assert 2 < seconds(small) - 4 < 4
    small_images = large.model_copy(update={"preprocessing": Override(size=112)})
    assert (seconds(large) - 4) / (seconds(small_images) - 4) == pytest.approx(4, rel=0.05)
    elsewhere = imported(tmp_path, "timm:x@s3://bucket/x.pth")
    assert seconds(elsewhere) == pytest.approx(seconds(large), rel=0.1)
    (tmp_path / "vit").mkdir()
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / "vit" / name).hardlink_to(tmp_path / "large.pth")
    assert seconds(imported(tmp_path, f"hf:{tmp_path}/vit")) == seconds(large)


def test_a_plan_knows_an_encoder_that_is_imported_by_what_it_turned_out_to_be(weights: Path, tmp_path: Path) -> None:
    encoder = {"kind": "timm", "name": "test_vit", "untrained": True, "options": {"img_size": 32}}
    graph = graph_of(study(tmp_path, encoder))
    store = open_store(str(tmp_path / "store"))

    def planned() -> StepState:
        return next(state for state in plan(graph, store) if state.name == "embeddings.net")

    guessed = planned()
    run(graph[:1], store, Inline)
    refined = planned()
    assert refined.seconds < guessed.seconds
    assert refined.size_bytes == 16 * 2 * 64 * 4 < guessed.size_bytes


def key(stage: Imported) -> str:
    return keys_of([Step("encoder", stage)], Fingerprints(refresh=True))["encoder"].digest


def test_the_key_knows_the_weights_by_their_bytes_and_not_by_their_path(weights: Path) -> None:
    def stage(path: Path, **more: Any) -> Imported:
        fields = {"kind": "timm", "name": "test_vit", "weights": str(path), "options": {"img_size": 32}}
        return Imported.model_validate(fields | more)

    elsewhere = weights.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / weights.name).write_bytes(weights.read_bytes())
    assert key(stage(weights)) == key(stage(elsewhere / weights.name))
    for more in ({"precision": "bfloat16"}, {"pool": "mean"}, {"taps": ["norm"]}, {"preprocessing": {"size": 32}}):
        assert key(stage(weights, **more)) != key(stage(weights)), more
    before = key(stage(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert key(stage(weights)) != before
    # Pinned, the file need not be read to know what it should be; the import refuses another.
    pinned = stage(weights, sha256=digest)
    assert pinned.external()["weights"].digest == digest
    with pytest.raises(Exception, match=f"with sha256 {digest}"):
        run([Step("encoder", pinned)], open_store(str(weights.parent / "store")), Inline)
    with pytest.raises(InputError, match="nothing of that name"):
        key(stage(weights.parent / "none.pth"))


@pytest.mark.usefixtures("local_ray")
def test_an_encoder_is_imported_on_a_worker_of_ray_as_here(weights: Path) -> None:
    stage = Imported.model_validate(
        {"kind": "timm", "name": "test_vit", "weights": f"file://{weights}", "options": {"img_size": 32}}
    )
    here, there = (
        run([Step("encoder", stage)], open_store(str(weights.parent / name)), executor).summary("encoder")
        for name, executor in (("inline", Inline), ("ray", OnRay))
    )
    assert here["weights_sha256"] == there["weights_sha256"]
    assert here["files"] == {"vit.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}


def test_kinds_that_name_a_network_say_nothing_of_a_file_where_there_is_none() -> None:
    assert Torchvision(name="resnet18", pretrained=True).external() == {}


NETS = """
import torch
from torch import nn


def make(width=4):
    convolution = nn.Conv2d(3, width, 3, 2)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return convolution
"""
SHA256 = "84a709a177083f16b0da74f7b95613554ec57fc85455ee0bf860138fd8e068b5"
THERE = "/home/someone/study/nets.py"
FORMER = "08fe1266305ffc9de8ce246462f1aefa579c2c951c9de994066c7bb4272e2041"
"""The key of the encoder that `make` in `THERE` builds, while the path was in it."""


def own(path: Path | str) -> Step:
    fields = {"kind": "torch", "factory": f"{path}:make", "preprocessing": {"size": 16, "resize": "square"}}
    return Step("encoder", Imported.model_validate(fields))


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a submitted run, with the file of code that lay at `THERE`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "job" / code.submitted_name(THERE, SHA256)
    file.parent.mkdir(parents=True)
    file.write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path / "job"))
    code.travelled({THERE: SHA256})
    yield tmp_path / "job"
    code.travelled({})
    code.named({})


def test_the_key_knows_code_by_its_bytes_and_the_functions_name_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "nets.py", tmp_path / "b" / "models.py"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(NETS)
    found = [keys_of([own(path)], Fingerprints(refresh=True))["encoder"] for path in paths]
    assert found[0] == found[1]
    assert found[0].document["fields"]["source"]["factory"] == "make"
    assert found[0].document["external"] == {"code": SHA256}
    assert str(tmp_path) not in str(found[0].document)
    paths[1].write_text(f"{NETS}\n")
    assert keys_of([own(paths[1])], Fingerprints(refresh=False))["encoder"] != found[0]
    installed = Imported.model_validate({"kind": "torch", "factory": "package.nets:make"})
    assert (
        keys_of([Step("encoder", installed)], Fingerprints(refresh=True))["encoder"].document["fields"]["source"][
            "factory"
        ]
        == "package.nets:make"
    )


def test_what_was_made_under_a_key_with_the_path_of_the_code_is_used(sent: Path) -> None:
    step, store = own(THERE), open_store(str(sent.parent / "store"))
    now = keys_of([step], Fingerprints(refresh=True), store)["encoder"]
    assert now == keys_of([step], Fingerprints(refresh=True))["encoder"]
    former = key_before()
    # As it stood in a store while a run of that time was at work, and then when the run was done.
    store.prepare()
    open_generation(store, "encoder", former, 0, "code of that time", {}, 1, "run of that time")
    done = run([step], store, Inline, accept_drift=True)
    assert done.steps[0].key == FORMER
    assert [(state.key, state.finished) for state in plan([step], store)] == [(FORMER, True)]
    assert run([step], store, Inline).steps[0].outcome == "hit"
    assert survey(store, "encoder", now.digest).standing == "none"


def key_before() -> Key:
    """The key document as it was written, literally, with the digest that was computed for it then."""
    document = {
        "format": 1,
        "stage": "encoder",
        "version": 1,
        "fields": {
            "source": {
                "inside": "",
                "ignore": [],
                "kind": "torch",
                "factory": f"{THERE}:make",
                "options": {},
                "pool": "auto",
                "prefix_tokens": None,
            },
            "taps": {},
            "preprocessing": {
                "size": 16,
                "resize": "square",
                "squash": None,
                "interpolation": None,
                "rounding": None,
                "mean": None,
                "std": None,
            },
            "precision": "float32",
            "augmentations": None,
        },
        "inputs": {},
        "external": {"code": "284b5ea5fc1d7a3d923ef30241376d36cbd2d74e8ee58cdf6b1e85f0a4a6ad6a"},
    }
    assert digest_of(document) == FORMER
    return Key(document, FORMER, former=True)


def test_an_encoder_is_read_with_its_code_wherever_that_lies_now_and_with_no_other(tmp_path: Path) -> None:
    before, now = tmp_path / "before" / "nets.py", tmp_path / "now" / "networks.py"
    for path in (before, now):
        path.parent.mkdir()
        path.write_text(NETS)
    store = open_store(str(tmp_path / "store"))
    made = run([own(before)], store, Inline)
    before.write_text(f"{NETS}\n")
    ref = survey(store, "encoder", made.steps[0].key).ref(store)
    with pytest.raises(
        InputError,
        match=rf"the file of code nets\.py with sha256 {SHA256[:12]}.*found .*another file.*Bring that file back",
    ):
        read(StoredInput(ref), "cpu")
    # The study names the same bytes elsewhere: a worker that reads the encoder is sent where.
    assert run([own(now)], store, Inline).steps[0].outcome == "hit"
    code.named({str(now): SHA256})
    assert read(StoredInput(ref), "cpu").taps == {"backbone": 4}
    code.named({})


def test_code_that_changes_between_the_plan_and_the_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    code.named({str(path): SHA256})
    path.write_text(f"{NETS}\n")
    stage = own(path).stage
    assert isinstance(stage, Imported)
    with pytest.raises(InputError, match=rf"with sha256 {SHA256[:12]}.*{path}: another file"):
        build(stage)
    code.named({})
