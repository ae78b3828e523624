"""The augmentations against closed forms, against torchvision and against themselves."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from stages.encoders.augment import (
    TRANSFORMS,
    Augmentations,
    Draws,
    apply,
    cropped,
    draw,
    hue_turned,
    luma,
    uniform,
)

SETTINGS = Augmentations()


def images(count: int = 6, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_transform_of_an_image_does_not_depend_on_its_batch() -> None:
    numbers = np.arange(40, 60)
    together, alone = draw(SETTINGS, 3, numbers), draw(SETTINGS, 3, numbers[7:8])
    for name in TRANSFORMS:
        assert np.array_equal(getattr(together, name)[7:8], getattr(alone, name))
    batch = images(20)
    shown = apply(batch, together)
    single = apply(batch[7:8], alone)
    torch.testing.assert_close(shown[7:8], single, rtol=0, atol=2e-6)


def test_another_seed_or_number_gives_another_transform() -> None:
    first = draw(SETTINGS, 0, np.arange(500)).crop
    assert first is not None
    for other in (draw(SETTINGS, 1, np.arange(500)).crop, draw(SETTINGS, 0, np.arange(500, 1000)).crop):
        assert other is not None
        assert not (first == other).all(axis=1).any()


def test_the_draws_of_a_number_are_pinned() -> None:
    assert uniform(7, np.array([0, 1, 2**40]), 0).tolist() == [
        0.609394524568175,
        0.40917949860472513,
        0.11278520493326083,
    ]


def test_uniform_numbers_are_uniform_and_independent_between_streams() -> None:
    numbers = np.arange(200_000)
    table = np.stack([uniform(5, numbers, stream) for stream in range(4)])
    assert table.min() >= 0
    assert table.max() < 1
    # Standard errors: 0.0006 for a mean, 0.0022 for a correlation.
    assert np.allclose(table.mean(axis=1), 0.5, atol=0.003)
    assert np.allclose(table.var(axis=1), 1 / 12, atol=0.001)
    neighbours = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in table]
    off = np.asarray(np.corrcoef(table))[~np.eye(4, dtype=bool)]
    assert np.abs([*off, *neighbours]).max() < 0.01


def test_crops_lie_inside_the_image_with_area_and_ratio_in_bounds() -> None:
    box = draw(SETTINGS, 0, np.arange(5000)).crop
    assert box is not None
    left, top, width, height = box.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 1 + 1e-12).all()
    assert (top + height <= 1 + 1e-12).all()
    whole = (width < 1) & (height < 1)
    area, ratio = (width * height)[whole], (width / height)[whole]
    assert 0.2 <= area.min() < 0.21
    assert 3 / 4 - 1e-9 <= ratio.min() < 0.76
    assert ratio.max() <= 4 / 3 + 1e-9


def test_probabilities_are_met() -> None:
    drawn = draw(SETTINGS, 0, np.arange(20_000))
    assert drawn.flip is not None
    assert drawn.greyscale is not None
    assert drawn.hue is not None
    assert abs(drawn.flip.mean() - 0.5) < 0.015
    assert abs(drawn.greyscale.mean() - 0.2) < 0.015
    assert abs((drawn.hue != 0).mean() - 0.8) < 0.015
    assert np.abs(drawn.hue).max() <= 0.1


def test_a_crop_equals_torchvisions_on_whole_pixels() -> None:
    batch = images(1)
    found = cropped(batch, np.array([[4 / 32, 8 / 32, 16 / 32, 16 / 32]]), None)
    expected = torch.nn.functional.interpolate(batch[:, :, 8:24, 4:20], size=(32, 32), mode="bilinear")
    # At the crop's edge the image goes on beyond it, where torchvision has nothing.
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_the_whole_image_is_a_crop_that_changes_nothing_and_a_flip_mirrors_it() -> None:
    batch = images(2)
    found = cropped(batch, None, np.array([False, True]))
    torch.testing.assert_close(found[0], batch[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], batch[1].flip(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.03, 0.25, 0.5])
def test_hue_turns_as_torchvision_turns_it(turns: float) -> None:
    batch = images()
    batch[0] = 0.4
    found = hue_turned(batch, np.full(len(batch), turns))
    torch.testing.assert_close(found, reference.adjust_hue(batch, turns), rtol=0, atol=1e-5)


def test_jitter_equals_torchvision_step_by_step() -> None:
    batch = images()
    count = len(batch)
    found = apply(
        batch, Draws(brightness=np.full(count, 1.3), contrast=np.full(count, 0.7), saturation=np.full(count, 1.4))
    )
    expected = reference.adjust_brightness(batch, 1.3)
    expected = reference.adjust_contrast(expected, 0.7)
    expected = reference.adjust_saturation(expected, 1.4)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_greyscale_keeps_luma_and_drops_colour() -> None:
    batch = images(2)
    found = apply(batch, Draws(greyscale=np.array([True, False])))
    torch.testing.assert_close(found[0], luma(batch)[0].expand(3, -1, -1))
    torch.testing.assert_close(found[1], batch[1])


def test_blur_equals_torchvisions_image_by_image() -> None:
    batch = images(3)
    sigmas = np.array([0.0, 0.6, 1.5]) / 32
    found = apply(batch, Draws(blur=sigmas))
    # Without a width, not a bit of an image changes.
    assert torch.equal(found[0], batch[0])
    for number, sigma in ((1, 0.6), (2, 1.5)):
        expected = reference.gaussian_blur(batch[number], [13, 13], [sigma, sigma])
        torch.testing.assert_close(found[number], expected, rtol=0, atol=2e-4)
    last = apply(batch.contiguous(memory_format=torch.channels_last), Draws(blur=sigmas))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, found)


def test_blur_is_drawn_only_where_it_is_asked_for_and_leaves_the_other_draws_as_they_were() -> None:
    numbers = np.arange(4000)
    with_blur = Augmentations(blur=0.25, blur_sigma=(0.01, 0.05))
    assert "blur" in with_blur.used()
    assert "blur" not in SETTINGS.used()
    drawn, plain = draw(with_blur, 0, numbers), draw(SETTINGS, 0, numbers)
    assert drawn.blur is not None
    assert plain.blur is not None
    assert not plain.blur.any()
    some = drawn.blur[drawn.blur > 0]
    assert abs(len(some) / 4000 - 0.25) < 0.03
    assert 0.01 <= some.min() < 0.011
    assert 0.049 < some.max() <= 0.05
    for name in TRANSFORMS[:-1]:
        assert np.array_equal(getattr(drawn, name), getattr(plain, name))


@pytest.mark.parametrize("sigma", [(0.1, 0.01), (-0.1, 0.1), (0.1, 0.5)])
def test_a_blur_whose_bounds_make_no_sense_is_refused(sigma: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two shares from 0 to"):
        Augmentations(blur=0.5, blur_sigma=sigma)


def test_a_single_transform_can_be_taken_out_of_the_draws() -> None:
    drawn = draw(SETTINGS, 0, np.arange(6)).only("hue")
    assert [name for name in TRANSFORMS if getattr(drawn, name) is not None] == ["hue"]
    batch = images()
    assert drawn.hue is not None
    torch.testing.assert_close(apply(batch, drawn), hue_turned(batch, drawn.hue))


def test_pixels_stay_in_range() -> None:
    shown = apply(images(64), draw(SETTINGS, 0, np.arange(64)))
    assert shown.shape == (64, 3, 32, 32)
    assert shown.min() >= 0
    assert shown.max() <= 1 + 1e-6
