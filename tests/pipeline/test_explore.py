"""`repscope explore`: what the page shows of a finished study."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.explore_commands import _painter
from pipeline.reading import OpenStudy, open
from pipeline.showing import material, shower
from pipeline.study import load
from stages.embeddings import photographs
from stages.errors import InputError
from stages.explorer.asked import Asked, painted
from stages.explorer.content import COLUMNS, Content, Sheets, gather
from stages.images.sets import open_images
from stages.show import shown
from tests.finished import Finished, repscope

TAP = "simclr:projector"


@pytest.fixture(scope="module")
def study(finished: Finished) -> OpenStudy:
    return open(finished.store).study("micro")


@pytest.fixture(scope="module")
def content(study: OpenStudy) -> Content:
    return gather(study, neighbour_maps=False)


def picture(sheets: Sheets, number: int) -> np.ndarray:
    """A picture as the page cuts it out, int64 [side, side, 3]."""
    sheet = np.asarray(Image.open(io.BytesIO(sheets.files[0])), dtype=np.int64)
    y, x = number // COLUMNS * sheets.side, number % COLUMNS * sheets.side
    return sheet[y : y + sheets.side, x : x + sheets.side]


def nearest(picture: np.ndarray, images: np.ndarray) -> int:
    """Which of uint8 [N, side, side, 3] a picture shows; its encoding changes pixels a little."""
    return int(np.abs(images - picture).mean(axis=(1, 2, 3)).argmin())


def test_every_held_out_image_is_there_with_its_labels_and_its_neighbours_at_each_tap(
    study: OpenStudy, content: Content
) -> None:
    table = study[TAP]
    rows = table.where("split = 'heldout'")
    labelled = table.rows.take(rows)
    assert list(content.keys) == labelled.column("key").to_pylist()
    assert [tap.id for tap in content.taps] == study.taps()
    assert content.notes == ()
    tap = next(tap for tap in content.taps if tap.id == TAP)
    found = table.nearest(content.keys[3], k=10, where="split = 'heldout'")
    assert [content.keys[i] for i in tap.near[3]] == found.column("key").to_pylist()
    assert np.corrcoef(tap.distances[3], found.column("distance").to_numpy())[0, 1] == pytest.approx(1)
    shape = next(label for label in content.labels if label.name == "shape")
    assert [shape.classes[int(code)] for code in shape.values] == labelled.column("shape").to_pylist()
    assert tap.kept.keys() <= {label.name for label in content.labels}
    assert tap.kept["hue"].verdict in {"kept", "partly", "lost", "decoder limit", "cannot tell"}


def test_pictures_and_samples_are_those_of_their_image(study: OpenStudy, content: Content) -> None:
    rows = study[TAP].where("split = 'heldout'")
    images = open_images(study.artifact("shards")).decode(rows[:40], content.pictures.side)
    assert nearest(picture(content.pictures, 33), images) == 33
    tap = next(tap for tap in content.taps if tap.id == TAP)
    assert tap.samples is not None
    samples = study.samples().to_pylist()
    number = len(tap.samples.points) - 1
    key = content.keys[tap.samples.points[number]]
    own = [
        sample["sample"]
        for sample in samples
        if (sample["step"], sample["painted_from"], sample["source_key"]) == ("samples.sources", TAP, key)
    ]
    assert len(own) >= tap.samples.per_source
    all_samples = open_images(study.artifact("samples.sources")).decode(range(own[-1] + 1), tap.samples.sheets.side)
    for k in range(tap.samples.per_source):
        assert nearest(picture(tap.samples.sheets, number * tap.samples.per_source + k), all_samples) == own[k]


def test_what_is_left_out_is_said_and_painted_images_come_first(study: OpenStudy, content: Content) -> None:
    sources = {content.keys[i] for tap in content.taps if tap.samples for i in tap.samples.points}
    limit = len(sources) + 5
    few = gather(study, [TAP], limit=limit, seed=1, neighbour_maps=False)
    assert len(few.keys) == limit
    assert sources < set(few.keys)
    (note,) = few.notes
    assert note.startswith(f"{limit} of {len(content.keys)} held-out images are shown: the {len(sources)} painted ones")


def test_a_map_by_tsne_says_its_parameters_and_what_not_to_read_from_it(study: OpenStudy) -> None:
    (tap,) = gather(study, [TAP], limit=40).taps
    assert [one.name for one in tap.maps] == ["t-SNE", "PCA"]
    assert "perplexity 13, seed 0" in tap.maps[0].about
    assert "Distances between far groups, and sizes of groups, mean nothing." in tap.maps[0].about
    assert "% of the variance" in tap.maps[1].about


def test_a_tsne_that_would_take_minutes_is_made_only_where_it_is_asked_for(
    study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.explorer.content.QUICK", 39)
    content = gather(study, [TAP], limit=40)
    assert [one.name for one in content.taps[0].maps] == ["PCA"]
    assert content.notes[-1].startswith(
        "There is no t-SNE, which takes minutes for 40 images at 1 tap: --tsne makes it"
    )
    (tap,) = gather(study, [TAP], limit=40, neighbour_maps=True).taps
    assert tap.maps[0].name == "t-SNE"


def test_too_few_images_are_refused(study: OpenStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.explorer.content.HELDOUT", "elsewhere")
    with pytest.raises(InputError, match="expected three held-out images or more; found 0"):
        gather(study, [TAP])


def test_a_photograph_of_an_image_of_the_study_finds_that_image_and_taps_without_pixels_say_so(
    study: OpenStudy,
) -> None:
    content = gather(study, [TAP, "oracle:attributes"], limit=60, neighbour_maps=False)
    row = study[TAP].rows.column("key").to_pylist().index(content.keys[7])
    ((_, photograph),) = open_images(study.artifact("shards")).files([row])
    asked = Asked(study, content)
    found = asked.near(photograph)
    assert found[TAP]["near"][0] == 7
    assert found[TAP]["distances"][0] < 0.01
    assert "why" in found["oracle:attributes"]
    with pytest.raises(InputError, match="expected an image"):
        asked.near(b"no image")


def test_networks_are_loaded_once_and_only_those_of_the_taps_that_are_shown(
    finished: Finished, study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(module: Any, name: str) -> None:
        load = getattr(module, name)

        def counting(first: Any, *more: Any) -> Any:
            loaded.append(name)
            return load(first, *more)

        monkeypatch.setattr(module, name, counting)

    counted(photographs, "load")
    counted(shown, "load_decoder")
    counted(shown, "load_encoder")
    content = gather(study, [TAP], limit=20, neighbour_maps=False)
    asked, read = Asked(study, content), load(str(finished.study))
    networks = shown.Networks(material(read, study), "cpu", [TAP], asked.encoder)
    show = shower(read, networks, samples=2, seed=0, guidance=1.0)
    files = list(open_images(study.artifact("shards")).files([3, 4]))
    for _, photograph in files:
        assert list(asked.near(photograph)) == list(painted(show({"image": photograph}, ()))) == [TAP]
    assert loaded == ["load", "load_decoder"]


def test_an_image_is_not_painted_where_no_shown_tap_reads_pixels(finished: Finished, study: OpenStudy) -> None:
    content = gather(study, ["oracle:attributes"], limit=20, neighbour_maps=False)
    ((_, photograph),) = open_images(study.artifact("shards")).files([3])
    paint = _painter(str(finished.study), study, [tap.id for tap in content.taps], Asked(study, content))
    assert paint(photograph) == {}


def test_the_command_writes_one_page(finished: Finished, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ("--store", finished.store, "--out", page, "--points", "20", "--no-tsne")
    done = repscope("explore", "micro", "--tap", TAP, *words)
    assert done.stdout.splitlines()[-1].startswith(f"{page}: 20 images, 1 tap, ")
    assert "held-out images are shown" in done.stdout
    assert page.read_bytes().startswith(b"<!doctype html>")
