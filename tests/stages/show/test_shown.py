"""Shown images: their samples, how near these come, and the picture and the page of them."""

import json
import re

import numpy as np
import pytest

from stages.decoder.format import CARD
from stages.decoder.stage import Decoder
from stages.embeddings.format import open_table
from stages.embeddings.stage import Embeddings
from stages.encoders.oracle import OracleEncoder
from stages.encoders.spec import Architecture, EncoderSpec, Oracle, Pretrained, Untrained
from stages.errors import InputError
from stages.images.image_file import decode
from stages.images.pixels import encode_png
from stages.samples.paint import painter
from stages.samples.stage import Samples
from stages.show.shown import Material, Networks, Shown, show
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.decoder.small import NETWORK, TRAINING, scenes

STAGE = Samples(per_source=3, steps=3)
GREY = encode_png(np.full((20, 30, 3), 90, dtype=np.uint8))
RED = encode_png(np.full((16, 16, 3), (200, 10, 10), dtype=np.uint8))


@pytest.fixture(scope="module")
def study() -> Material:
    shards, embeddings = scenes()
    stage = Decoder(
        taps=("oracle:attributes", "oracle:pixels"), size=16, num_images=64, network=NETWORK, training=TRAINING
    )
    decoder = run_stage(stage, {"shards": shards, "embeddings.oracle": embeddings})
    return Material([decoder], {"oracle": Oracle()}, {}, {"oracle": embeddings}, shards, scaled=False)


def shown(study: Material, images: dict[str, bytes], device: str = "cpu") -> Shown:
    return show(images, Networks(study, device), [], painter(STAGE), about="Study <b>small</b>.")


@pytest.mark.parametrize(
    "spec", [Oracle(), Untrained(architecture=Architecture(widths=(4, 8), blocks=(1, 1), projector=(8, 4)))]
)
def test_networks_run_on_the_device_that_is_given(study: Material, spec: EncoderSpec) -> None:
    elsewhere = Material(study.decoders, {"oracle": spec}, {}, study.embeddings, study.shards, scaled=False)
    # A network that is there cannot run at all.
    with pytest.raises(RuntimeError, match="meta"):
        shown(elsewhere, {"grey": GREY}, "meta")


def test_an_image_is_painted_alike_alone_and_beside_others(study: Material) -> None:
    alone, both = shown(study, {"grey": GREY}), shown(study, {"red": RED, "grey": GREY})
    (one,), (two,) = alone.taps, both.taps
    assert one.id == two.id == "oracle:pixels"
    assert two.samples.shape == (2, 3, 16, 16, 3)
    assert np.abs(one.samples[0].astype(int) - two.samples[1]).max() <= 1
    assert two.distances.shape == two.ranks.shape == (2, 3)
    assert np.allclose(one.distances[0], two.distances[1], atol=0.01)


def test_a_sample_that_is_the_image_has_distance_0_and_rank_1(study: Material) -> None:
    same = np.repeat(decode(RED)[None, None], 3, axis=1)
    (tap,) = show({"red": RED}, Networks(study, "cpu"), [], lambda *arguments: same).taps
    assert tap.distances.tolist() == [[0, 0, 0]]
    assert tap.ranks.tolist() == [[1, 1, 1]]
    (other,) = show({"grey": GREY}, Networks(study, "cpu"), [], lambda *arguments: same).taps
    assert (other.distances > 0.5).all()


def test_distances_are_those_of_standardised_vectors_in_distances_of_two_heldout_images(study: Material) -> None:
    found = shown(study, {"red": RED})
    (tap,) = found.taps
    table = open_table(study.embeddings["oracle"])
    statistics = table.statistics("pixels")
    heldout = np.flatnonzero(np.array(table.rows().column("split").to_pylist()) == "heldout")
    gallery = statistics.standardise(table.read("pixels", "plain", heldout))
    pairs = np.linalg.norm(gallery[:, None] - gallery[None], axis=2)
    unit = pairs[~np.eye(len(pairs), dtype=bool)].mean()
    images = np.concatenate([decode(RED)[None], tap.samples[0]])
    own, *painted = statistics.standardise(OracleEncoder(None).embed(images)["pixels"])
    assert found.gallery == len(heldout)
    assert np.allclose(tap.distances[0], [np.linalg.norm(vector - own) / unit for vector in painted], rtol=1e-4)


def test_an_unknown_tap_or_one_that_reads_no_pixels_is_refused_with_those_that_are_there(study: Material) -> None:
    for tap in ("oracle:attributes", "oracle:pixles"):
        with pytest.raises(InputError, match=rf"expected taps that read pixels, oracle:pixels; found {tap}"):
            show({"grey": GREY}, Networks(study, "cpu"), [tap], painter(STAGE))


def test_only_the_networks_of_the_named_taps_are_loaded(study: Material) -> None:
    """The other encoder's artifact and the extension's weights are not there at all."""
    small = Untrained(architecture=Architecture(widths=(4, 8), blocks=(1, 1), projector=(8, 4)))
    table = run_stage(Embeddings(encoder=small), {"images": study.shards})
    card = json.loads(study.decoders[0].read(CARD)) | {"taps": {"absent:backbone": 8}}
    more = Material(
        [*study.decoders, MemoryArtifact({CARD: json.dumps(card).encode()})],
        {**study.specs, "absent": Pretrained()},
        {},
        {**study.embeddings, "absent": table},
        study.shards,
        scaled=False,
    )
    (tap,) = show({"grey": GREY}, Networks(more, "cpu"), ["oracle:pixels"], painter(STAGE)).taps
    np.testing.assert_array_equal(tap.samples, shown(study, {"grey": GREY}).taps[0].samples)
    with pytest.raises(InputError, match="encoder's artifact"):
        show({"grey": GREY}, Networks(more, "cpu"), ["absent:backbone"], painter(STAGE))


def test_the_picture_has_a_row_for_each_tap_of_each_image(study: Material) -> None:
    tile = 16 * 4 + 2
    picture = shown(study, {"red": RED, "grey": GREY})
    assert decode(picture.png()).shape == (2 * tile, 4 * tile, 3)
    assert picture._repr_png_() == picture.png()


def test_the_page_names_every_image_and_tap_and_escapes_what_it_is_given(study: Material) -> None:
    page = shown(study, {"<i>red</i>.png": RED, "grey.png": GREY}).page().decode()
    assert "<i>red" not in page
    assert "<b>small" not in page
    assert "2 images together" in page
    assert page.count("Sample 3 of") == 2
    assert page.count(">oracle:pixels<") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "together" not in shown(study, {"grey.png": GREY}).page().decode()
