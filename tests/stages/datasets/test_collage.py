"""Collages are pure functions of seed and number, what their attributes say is what is seen, and no part leaks."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline.key import key_of
from stages.contract import External
from stages.datasets import collage
from stages.datasets.collage import turn_hue
from stages.datasets.sources import CollageSource, FolderSource
from stages.errors import InputError
from stages.images.image_file import decode
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.stages.datasets.listed import both, declared, fill, table

GREY = (128, 128, 128)


def disc(colour: tuple[int, int, int], side: int = 41) -> Image.Image:
    """A disc that touches the sides of its image, transparent around it; its upper half is darker."""
    middle = (side - 1) / 2
    down, right = np.ogrid[:side, :side]
    layer = np.zeros((side, side, 4), dtype=np.uint8)
    layer[:, :, :3] = colour
    layer[: side // 2, :, :3] //= 2
    layer[:, :, 3] = 255 * ((down - middle) ** 2 + (right - middle) ** 2 <= (side / 2) ** 2)
    return Image.fromarray(layer)


def flat(colour: tuple[int, int, int], side: int = 80) -> Image.Image:
    return Image.new("RGB", (side + 10, side), colour)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def folders(root: Path, more: dict[str, bytes] | None = None) -> dict[str, Any]:
    """Two classes of five cut-outs and two folders of three backgrounds, and the settings of a source that reads them.

    The red of a background and the side of a cut-out tell which it is.
    """
    files = {
        f"cutouts/{name}/{n}.png": saved(disc(colour, 31 + 10 * n + shift))
        for name, colour, shift in (("apple", (250, 30, 30), 0), ("pear", (30, 250, 30), 2))
        for n in range(5)
    }
    files |= {
        f"backgrounds/{kind}/{n}.png": saved(flat((60 * n, 90, blue)))
        for kind, blue in (("sea", 200), ("sand", 20))
        for n in range(3)
    }
    fill(str(root), files | (more or {}))
    return {
        "kind": "collage",
        "cutouts": {"url": f"{root}/cutouts"},
        "backgrounds": {"url": f"{root}/backgrounds"},
        "heldout": 0.4,
    }


def source(root: Path, more: dict[str, bytes] | None = None, **settings: Any) -> CollageSource:
    return CollageSource.model_validate(folders(root, more) | settings)


def seen(found: CollageSource, rows: range) -> tuple[list[NDArray[np.uint8]], dict[str, NDArray[np.float64]]]:
    names = found.catalogue().names[rows.start : rows.stop]
    images = [decode(data) for data in found.fetch(rows, names) if isinstance(data, bytes)]
    return images, found.values(rows, names, found.catalogue().attributes)


def test_an_image_depends_on_seed_and_number_only(tmp_path: Path) -> None:
    several, alone = source(tmp_path, count=9), source(tmp_path, count=900)
    images, values = seen(several, range(9))
    one, its = seen(alone, range(7, 8))
    assert np.array_equal(images[7], one[0])
    assert all(np.array_equal(values[name][7], its[name][0], equal_nan=True) for name in values)
    other, _ = seen(source(tmp_path, seed=1), range(7, 8))
    assert not np.array_equal(images[7], other[0])
    assert images[7].shape == (64, 64, 3)


def test_held_out_images_share_no_cutout_and_no_background_with_the_others(tmp_path: Path) -> None:
    settings = folders(tmp_path) | {"count": 300, "size": 16}
    _, shards, images = both(rows=100, **settings)
    index = table(shards)
    assert (index.split == "heldout").sum() == 120
    pieces = index.file_name.str.extract(r"^(?P<row>\d+): (?P<cutout>.+) on (?P<background>.+)$")
    assert pieces.row.astype(int).tolist() == index.row.tolist()
    for part, count in (("cutout", 10), ("background", 6)):
        sides = {split: set(pieces[part][index.split == split]) for split in ("train", "heldout")}
        assert not sides["train"] & sides["heldout"]
        assert len(sides["train"] | sides["heldout"]) == count
        assert len({name.split("/")[0] for name in sides["heldout"]}) == 2
    assert declared(shards)["class"] == ("class", ("apple", "pear"))
    assert declared(shards)["background"] == ("class", ("sand", "sea"))
    assert index["attribute.class"].tolist() == [float(name.startswith("pear")) for name in pieces.cutout]
    assert index["attribute.background"].tolist() == [float(name.startswith("sea")) for name in pieces.background]
    corners = [decode(data)[0, 0] for data in images]
    assert [corner[2] for corner in corners] == [200 if name.startswith("sea") else 20 for name in pieces.background]
    assert [corner[0] for corner in corners] == [60 * int(name[-5]) for name in pieces.background]


def test_attributes_are_drawn_over_their_whole_range_and_independently(tmp_path: Path) -> None:
    values = source(tmp_path, size=16).values(range(1500), (), source(tmp_path).catalogue().attributes)
    for name, bounds in (("x", collage.CENTRE), ("y", collage.CENTRE), ("scale", collage.SCALE)):
        assert bounds[0] <= values[name].min() < values[name].max() <= bounds[1]
        assert np.mean(values[name]) == pytest.approx(np.mean(bounds), abs=0.01)
    turns = (values["rotation"] + 0.5) % 1.0 - 0.5
    assert -0.125 <= turns.min() < -0.12 < 0.12 < turns.max() <= 0.125
    hues, _ = np.histogram(values["hue"], bins=5, range=(0, 1))
    assert hues.min() > 220
    assert not np.isnan(values["hue"]).any()
    columns = np.stack([values[name] for name in ("class", "background", "x", "y", "scale")] + [turns])
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.08


def test_a_cutout_is_where_and_as_large_as_its_attributes_say(tmp_path: Path) -> None:
    found = source(tmp_path, {f"backgrounds/sea/{n}.png": saved(flat((n, 128, 128))) for n in range(3)}, hue=0.0)
    images, values = seen(found, range(60))
    for number, image in enumerate(images):
        if values["background"][number] != 1:
            continue
        gap = np.abs(image.astype(int) - image[0, 0]).max(axis=-1)
        down, right = (np.nonzero(gap > 25)[axis] + 0.5 for axis in (0, 1))
        assert (right.min() + right.max()) / 2 == pytest.approx(64 * values["x"][number], abs=1.0)
        assert (down.min() + down.max()) / 2 == pytest.approx(64 * values["y"][number], abs=1.0)
        assert (right.max() - right.min() + 1) / 2 == pytest.approx(64 * values["scale"][number], abs=1.0)


def test_rotation_is_clockwise_from_how_the_file_stands(tmp_path: Path) -> None:
    images, values = seen(source(tmp_path, rotation=0.5, hue=0.0), range(40))
    for image, x, y, turns in zip(images, values["x"], values["y"], values["rotation"], strict=True):
        # The dark half, which is above in the file, is towards this side of the centre.
        right, up = np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)
        dark = image[round(64 * y - 7 * up - 0.5), round(64 * x + 7 * right - 0.5)].max()
        light = image[round(64 * y + 7 * up - 0.5), round(64 * x - 7 * right - 0.5)].max()
        assert light > 1.7 * dark


def test_hue_and_brightness_are_those_of_the_pasted_pixels(tmp_path: Path) -> None:
    images, values = seen(source(tmp_path), range(40))
    turned = 0
    for number, image in enumerate(images):
        x, y, scale = (64 * values[name][number] for name in ("x", "y", "scale"))
        down, right = np.ogrid[:64, :64]
        inside = (right + 0.5 - x) ** 2 + (down + 0.5 - y) ** 2 < (0.9 * scale) ** 2
        red, green, blue = image[inside].mean(axis=0) / 255
        hue = np.angle(complex(red - (green + blue) / 2, (green - blue) * 0.75**0.5)) / (2 * np.pi)
        assert abs((hue - values["hue"][number] + 0.5) % 1.0 - 0.5) < 0.01
        lightness = 0.299 * red + 0.587 * green + 0.114 * blue
        assert lightness == pytest.approx(values["brightness"][number], abs=0.03)
        turned += abs((values["hue"][number] - values["class"][number] / 3 + 0.5) % 1.0 - 0.5) > 0.1
    assert turned > 20


def test_the_plan_counts_that_collages_are_drawn_to_be_listed_and_again_to_be_packed(tmp_path: Path) -> None:
    settings = folders(tmp_path) | {"count": 3072, "size": 112}
    listing = Listing(source=CollageSource(**settings)).estimate({})
    shards = Shards().estimate({"listing": listing})
    # Measured of the recipe `photos`: 15 and 11 ms an image, and 21.5 KB.
    assert listing.cpu_seconds == pytest.approx(3072 * 15e-3, rel=0.2)
    assert shards.cpu_seconds == pytest.approx(3072 * 11e-3, rel=0.2)
    assert shards.size_bytes == pytest.approx(3072 * 23_000, rel=0.2)
    read = Listing(source=FolderSource(url=f"{tmp_path}/cutouts")).estimate({})
    assert read.drawing_seconds == 0.0
    assert read.image_bytes == pytest.approx(500, rel=0.9)


def test_a_grey_cutout_has_no_hue(tmp_path: Path) -> None:
    grey = {f"cutouts/pear/{n}.png": saved(disc(GREY, 33 + 10 * n)) for n in range(5)}
    found = source(tmp_path, grey)
    values = found.values(range(50), (), found.catalogue().attributes)
    assert np.array_equal(np.isnan(values["hue"]), values["class"] == 1)


def test_turning_the_hue_a_third_moves_the_channels_on_and_leaves_greys() -> None:
    colours = np.random.default_rng(0).uniform(0, 255, (5, 7, 3))
    assert turn_hue(colours, 1 / 3) == pytest.approx(np.roll(colours, 1, axis=2))
    assert turn_hue(colours, 0.2).max(axis=2) == pytest.approx(colours.max(axis=2))
    assert turn_hue(turn_hue(colours, 0.2), -0.2) == pytest.approx(colours)
    assert np.array_equal(turn_hue(np.full((2, 2, 3), 77.0), 0.4), np.full((2, 2, 3), 77.0))


def test_backgrounds_may_lie_loose_and_are_then_no_attribute(tmp_path: Path) -> None:
    settings = folders(tmp_path)
    fill(str(tmp_path), {f"loose/{n}.jpg": saved(flat((60 * n, 9, 9)), "JPEG") for n in range(3)})
    (tmp_path / "loose" / "notes.txt").write_text("Where I was.")
    found = CollageSource.model_validate(settings | {"backgrounds": {"url": f"{tmp_path}/loose", "labels": "none"}})
    names = [attribute.name for attribute in found.catalogue().attributes]
    assert names == ["class", "x", "y", "scale", "rotation", "hue", "brightness"]
    assert found.catalogue().passed_over.counts == {".txt": 1}
    with pytest.raises(InputError, match="or set `labels: none`"):
        CollageSource.model_validate(settings | {"backgrounds": {"url": f"{tmp_path}/loose"}}).catalogue()


def test_photographs_are_upright_and_cut_outs_of_any_mode(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half = np.zeros((40, 80, 3), dtype=np.uint8)
    half[:, 40:] = 255
    # Turned a quarter clockwise, its white half is below.
    turned = {
        f"backgrounds/sea/{n}.jpg": saved(Image.fromarray(half), "JPEG", exif=exif, quality=90 + n) for n in range(2)
    }
    shape = disc((250, 30, 30))
    modes = {
        "cutouts/plum/0.png": saved(shape.convert("LA")),
        "cutouts/plum/1.png": saved(shape.quantize(16)),
        "cutouts/plum/2.webp": saved(shape, "WEBP", lossless=True),
    }
    settings = folders(tmp_path, turned | modes)
    for n in range(3):
        (tmp_path / f"backgrounds/sea/{n}.png").unlink()
    images, values = seen(CollageSource.model_validate(settings), range(80))
    sea = [image for image, kind in zip(images, values["background"], strict=True) if kind == 1]
    assert len(sea) > 20
    assert sum(image[0, :8].mean() <= image[-1, :8].mean() for image in sea) == len(sea)
    assert sum(image[0, 0].max() < 40 and image[-1, 0].min() > 215 for image in sea) > 5
    assert (values["class"] == 2).sum() > 15


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cutouts/plum/1.png": saved(disc(GREY))}, "two files of each class"),
        ({"cutouts/pear/copy.png": saved(disc((250, 30, 30), 31))}, "apple/0.png and pear/copy.png of equal bytes"),
        ({"backgrounds/sea/copy.png": saved(flat((0, 90, 20)))}, "sand/0.png and sea/copy.png of equal bytes"),
        ({"cutouts/pear/9.png": saved(flat(GREY))}, "transparent pixels at pear/9.png; found no transparent one"),
        ({"cutouts/pear/9.png": saved(Image.new("RGBA", (9, 9)))}, "at pear/9.png; found no visible one"),
        ({"cutouts/pear/9.png": saved(disc(GREY))[:80]}, "at pear/9.png; found a damaged PNG"),
        ({"backgrounds/sea/9.jpg": b"\xff\xd8\xff no"}, "at sea/9.jpg; found"),
    ],
)
def test_files_that_do_not_serve_are_named(tmp_path: Path, more: dict[str, bytes], message: str) -> None:
    with pytest.raises(InputError) as caught:
        both(**folders(tmp_path, more) | {"count": 200, "size": 16})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutouts": {"url": "a", "labels": "none"}}, "in a folder for each class"),
        ({"backgrounds": {"url": "a", "table": {"url": "b.csv"}}}, "a folder without `table`"),
        ({"heldout": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused_at_once(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CollageSource.model_validate(folders(tmp_path) | change)


def test_the_key_knows_what_is_in_both_folders_and_not_where_they_are(tmp_path: Path) -> None:
    found = source(tmp_path)
    assert found.external() == {
        "cutouts": External(f"{tmp_path}/cutouts", "listing"),
        "backgrounds": External(f"{tmp_path}/backgrounds", "listing"),
    }

    def moved(target: str) -> Listing:
        return Listing(source=CollageSource.model_validate(folders(tmp_path) | {"cutouts": {"url": target}}))

    digests = {"cutouts": "a", "backgrounds": "b"}
    assert key_of(moved("/x"), {}, digests) == key_of(moved("/y"), {}, digests)
    assert key_of(moved("/x"), {}, digests) != key_of(moved("/x"), {}, digests | {"cutouts": "c"})
