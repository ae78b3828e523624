"""What the methods have in common and what they do not: heads, losses, labels, and that each of them learns."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
from pydantic import ValidationError

from pipeline.key import key_of
from stages import attributes
from stages.datasets.scenes import render
from stages.datasets.sources import ScenesSource
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.format import CARD, digest, parse_card
from stages.encoders.load import load
from stages.encoders.network import initialise
from stages.encoders.spec import Pretrained
from stages.errors import InputError
from stages.listing.stage import Listing
from stages.pretrain.loop import Trainer, TrainLabels, TrainSet
from stages.pretrain.methods import Classification, build
from stages.pretrain.quality import knn
from stages.pretrain.stage import OWN, Pretrain
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.pretrain.small import METHODS, SMALL, STAGE, held

SHORT = STAGE.model_copy(update={"num_images": 64})


@pytest.fixture(scope="module")
def shards() -> MemoryArtifact:
    listing = run_stage(Listing(source=ScenesSource(count=120, seed=7), holdout=0.3))
    return run_stage(Shards(shard_rows=64), {"listing": listing})


def of(method: str, **fields: object) -> Pretrain:
    return Pretrain.model_validate(SHORT.model_dump() | {"method": method} | fields)


def relabelled(shards: MemoryArtifact) -> MemoryArtifact:
    """The same images with the attributes of other images."""
    table = pq.read_table(io.BytesIO(shards.objects["index.parquet"]))
    order = np.random.Generator(np.random.Philox(key=[3, 0])).permutation(table.num_rows)
    known = attributes.columns_of(attributes.load(shards.objects["attributes.json"])).values()
    for number, name in enumerate(table.column_names):
        if name in known:
            table = table.set_column(number, name, table.column(name).take(pa.array(order)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return MemoryArtifact(shards.objects | {"index.parquet": buffer.getvalue()})


def test_the_key_of_a_study_written_before_there_were_other_methods_stands() -> None:
    written = {
        "method": "simclr",
        "architecture": {"stem": 2, "widths": [32, 64, 128, 256], "blocks": [1, 1, 1, 1], "projector": [256, 128]},
        "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "augmentations": {
            "crop_scale": [0.2, 1.0],
            "crop_ratio": [0.75, 4 / 3],
            "flip": 0.5,
            "jitter": 0.8,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "hue": 0.1,
            "greyscale": 0.2,
        },
        "seed": 0,
        "num_images": 240_000,
        "batch": 256,
        "learning_rate": 2e-3,
        "weight_decay": 1e-4,
        "temperature": 0.5,
        "precision": "bfloat16",
    }
    key = key_of(Pretrain.model_validate(written), {"shards": "ab" * 32}, {})
    assert key.digest == "ee4293b8b743595e9aff69919d7546929476ae23f6ff1b8303efb2cd3d7d7fd7"


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("vicreg", "temperature", 0.1),
        ("simclr", "covariance", 2.0),
        ("supervised", "redundancy", 0.1),
        ("barlow", "label", "shape"),
    ],
)
def test_a_setting_of_another_method_is_refused(method: str, name: str, value: object) -> None:
    owner = next(owner for owner, names in OWN.items() if name in names)
    with pytest.raises(ValidationError, match=f"expected {name} with method {owner} only; found it with {method}"):
        of(method, **{name: value})


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_have_one_backbone_and_a_projector_of_the_same_widths(method: str) -> None:
    images = render(7, range(20))[0]
    trainer = Trainer(of(method), held(of(method), images), "cpu")
    reference = initialise(SMALL, SHORT.seed)
    assert digest(trainer.network.backbone.state_dict()) == digest(reference.backbone.state_dict())
    linears = [m for m in trainer.network.projector if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(16, 16), (16, 8)]
    assert all(m.bias is None for m in linears)


def test_the_views_are_the_same_for_all_methods() -> None:
    images = render(7, range(20))[0]
    first, *others = (Trainer(of(method), held(of(method), images), "cpu").views(1) for method in METHODS)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


def test_projectors_are_lightlys_heads() -> None:
    heads = {
        "simclr": SimCLRProjectionHead(16, 16, 8, num_layers=3),
        "supervised": SimCLRProjectionHead(16, 16, 8, num_layers=3),
        "vicreg": VICRegProjectionHead(16, 16, 8, num_layers=3),
        "barlow": VICRegProjectionHead(16, 16, 8, num_layers=3),
    }
    deep = SMALL.model_copy(update={"projector": (16, 16, 8)})
    for method, head in heads.items():
        built = build(of(method, architecture=deep.model_dump()), 2)
        assert [type(module) for module in built.projector] == [type(module) for module in head.layers]


def test_losses_are_those_of_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    # SimCLR, equation 1.
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    scores = (views @ views.T / 0.2).exp().fill_diagonal_(0)
    partner = torch.arange(12).roll(6)
    simclr = -(scores[torch.arange(12), partner] / scores.sum(1)).log().mean()
    # VICReg, equations 1 to 6.
    vicreg = 3.0 * (first - second).square().mean()
    for view in (first, second):
        vicreg += 2.0 / 2 * (1 - (view.var(0) + 1e-4).sqrt()).clamp_min(0).mean()
        vicreg += 0.5 * (torch.cov(view.T) - torch.cov(view.T).diag().diag()).square().sum() / 4
    # Barlow Twins, equations 1 and 2.
    one, two = ((view - view.mean(0)) / (view.var(0, unbiased=False) + 1e-5).sqrt() for view in (first, second))
    across = one.T @ two / 6
    barlow = (1 - across.diag()).square().sum() + 0.1 * (across - across.diag().diag()).square().sum()
    for wanted, stage in (
        (simclr, of("simclr", temperature=0.2)),
        (vicreg, of("vicreg", invariance=3.0, variance=2.0, covariance=0.5)),
        (barlow, of("barlow", redundancy=0.1)),
    ):
        assert float(build(stage, None).loss(first, second)) == pytest.approx(float(wanted), rel=1e-6), stage.method


def test_the_supervised_loss_is_the_cross_entropy_of_both_views() -> None:
    loss = build(of("supervised"), 3).loss
    assert isinstance(loss, Classification)
    first, second = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0])
    apart = [torch.nn.functional.cross_entropy(loss.classifier(view), labels) for view in (first, second)]
    torch.testing.assert_close(loss(first, second, labels), (apart[0] + apart[1]) / 2)


@pytest.mark.parametrize("method", METHODS[:-1])
def test_labels_never_reach_a_method_that_is_not_given_them(shards: MemoryArtifact, method: str) -> None:
    digests = {run_stage(of(method), {"shards": given}).summary["weights_sha256"] for given in _both(shards)}
    assert len(digests) == 1


def test_labels_reach_the_supervised_method_and_stand_in_the_card(shards: MemoryArtifact) -> None:
    built = [run_stage(of("supervised", label="pattern"), {"shards": given}) for given in _both(shards)]
    assert built[0].summary["weights_sha256"] != built[1].summary["weights_sha256"]
    assert parse_card(built[0].objects[CARD]).training["label"] == "pattern"


def _both(shards: MemoryArtifact) -> tuple[MemoryArtifact, MemoryArtifact]:
    return shards, relabelled(shards)


def test_a_label_must_be_named_where_there_are_several_and_exist(shards: MemoryArtifact) -> None:
    with pytest.raises(InputError, match=r"shape, pattern, and no `label`.*Write `label:` with one of them"):
        run_stage(of("supervised"), {"shards": shards})
    with pytest.raises(InputError, match=r"a class attribute: shape, pattern; found 'shap'.*'shape'"):
        run_stage(of("supervised", label="shap"), {"shards": shards})
    only = MemoryArtifact(shards.objects | {"attributes.json": b"[]"})
    with pytest.raises(InputError, match=r"found none.*another method"):
        run_stage(of("supervised"), {"shards": only})


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_of_any_method_loads_with_its_taps(shards: MemoryArtifact, method: str) -> None:
    own = {"label": "shape"} if method == "supervised" else {}
    artifact = run_stage(of(method, **own), {"shards": shards})
    card = parse_card(artifact.objects[CARD])
    assert (card.method, card.projector_norm) == (method, method in ("simclr", "supervised"))
    assert set(OWN[method]) <= set(card.training)
    assert load(Pretrained(), {"encoder": artifact}, "cpu").taps == {"backbone": 16, "projector.0": 16, "projector": 8}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_lowers_its_loss_and_keeps_what_both_views_show(method: str) -> None:
    torch.set_num_threads(1)
    images, truth = render(7, range(480))
    sixth = torch.from_numpy(np.floor(6 * truth["background_hue"]).astype(np.int64))
    train, heldout = slice(0, 320), slice(320, 480)
    wide = SMALL.model_copy(update={"projector": (32, 16)})
    stage = of(method, architecture=wide.model_dump(), batch=32, num_images=60 * 32)
    labels = TrainLabels(sixth[train], 6) if method == "supervised" else None
    trainer = Trainer(stage, TrainSet(320, lambda numbers: images[train][numbers], labels), "cpu")
    losses = [float(trainer.advance()) for _ in range(trainer.steps)]
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])
    backbone = torch.from_numpy(NetworkEncoder(trainer.trained(), stage.preprocessing, "cpu").embed(images)["backbone"])
    found = knn(backbone[train], sixth[train], backbone[heldout], 6)
    assert float(torch.bincount(sixth[heldout]).max()) / 160 < 0.25
    assert float((found == sixth[heldout]).float().mean()) > 0.5
