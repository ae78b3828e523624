"""An encoder's own preprocessing is that of the library it comes from, to a rounding level."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from numpy.typing import NDArray
from pydantic import ValidationError
from torchvision import models, transforms
from torchvision.transforms import InterpolationMode

from pipeline.key import fields_of
from stages.encoders.agreement import photograph, pixel_difference, shown
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.imported import preprocessing
from stages.encoders.sources.settings import IMAGENET, Override, Torchvision
from stages.encoders.sources.torchvision import _known_by, preprocessing_of
from stages.encoders.spec import Preprocessing
from stages.encoders.stage import Imported
from stages.errors import InputError
from stages.external.files import sha256_of
from stages.images.framing import Framing, fit
from tests.stages.encoders.files import VIT_PROCESSOR, card, encoder, hf_folder, imported, photo, pil, rcdm_square

SHAPES = [(90, 60), (60, 91), (64, 64), (33, 47)]
LEVEL = 1 / 255


def seen(image: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """What a network sees of an image: float32 [3, size, size]."""
    found: NDArray[np.float32] = shown(fit(image, how.framing)[None], how)[0].numpy()
    return found


def assert_a_level_apart(ours: NDArray[np.float32], theirs: NDArray[np.float32], std: tuple[float, ...]) -> None:
    assert ours.shape == theirs.shape
    levels = np.abs(ours - theirs) * np.array(std)[:, None, None] / LEVEL
    assert levels.max() <= 1.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box"])
def test_resizing_and_cutting_are_torchvisions(shape: tuple[int, int], interpolation: Any) -> None:
    image = photo(*shape)
    mode = InterpolationMode(interpolation)
    theirs = transforms.Compose([transforms.Resize(48, interpolation=mode), transforms.CenterCrop(41)])(pil(image))
    np.testing.assert_array_equal(fit(image, Framing(41, 48, interpolation=interpolation)), np.array(theirs))
    squashed = transforms.Compose([transforms.Resize((48, 48), interpolation=mode), transforms.CenterCrop(41)])(
        pil(image)
    )
    framing = Framing(41, 48, squash=True, interpolation=interpolation)
    np.testing.assert_array_equal(fit(image, framing), np.array(squashed))


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "convnext_tiny", "efficientnet_b1"])
def test_a_torchvision_network_comes_with_the_preprocessing_of_its_weights(name: str) -> None:
    chosen: Any = next(iter(models.get_model_weights(name)))
    how = preprocessing_of(chosen)
    image = photo(300, 260)
    assert_a_level_apart(seen(image, how), chosen.transforms()(pil(image)).numpy(), how.std)


@pytest.mark.parametrize("name", ["test_vit", "resnet10t", "test_convnext3"])
def test_a_timm_network_comes_with_timms_own_preprocessing(name: str) -> None:
    artifact = imported(kind="timm", name=name, untrained=True)
    how = encoder(artifact).preprocessing
    network = timm.create_model(name)
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    for shape in SHAPES:
        image = photo(3 * shape[0], 3 * shape[1])
        assert_a_level_apart(seen(image, how), transform(pil(image)).numpy(), how.std)
    assert card(artifact)["preprocessing"]["size"] == how.size


SQUARE = {"size": {"height": 32, "width": 32}, "resample": 0, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": VIT_PROCESSOR,
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
    },
    "convnext": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_pct": 0.875,
        "resample": 3,
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "do_normalize": False,
    },
    "mobilevit": {
        "image_processor_type": "MobileViTImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "do_flip_channel_order": True,
        "resample": 2,
    },
    "efficientnet": SQUARE | {"image_processor_type": "EfficientNetImageProcessor", "include_top": True},
    "efficientnet offset": SQUARE
    | {"image_processor_type": "EfficientNetImageProcessor", "include_top": False}
    | {"rescale_offset": True, "rescale_factor": 1 / 127.5},
    "levit": {
        "image_processor_type": "LevitImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 2,
    },
    "poolformer": {
        "image_processor_type": "PoolFormerImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "crop_pct": 0.9,
        "resample": 2,
    },
    "one mean for all channels": VIT_PROCESSOR | {"image_mean": 0.5, "image_std": [0.5]},
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_model_of_transformers_comes_with_its_image_processor(processor: str, tmp_path: Path) -> None:
    path, _ = hf_folder(tmp_path, "vit", PROCESSORS[processor])
    how = encoder(imported(kind="hf", path=str(path))).preprocessing
    theirs = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
    for shape in SHAPES:
        image = photo(*shape)
        pixels = theirs(images=pil(image), return_tensors="pt")["pixel_values"][0].numpy()
        assert_a_level_apart(seen(image, how), pixels, how.std)


GIVEN = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    "processor",
    [
        None,
        VIT_PROCESSOR | {"do_resize": False},
        VIT_PROCESSOR | {"size": {"height": 32, "width": 24}},
        VIT_PROCESSOR | {"rescale_factor": 1.0},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "do_center_crop": False},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28}, "crop_size": 32},
        {"image_processor_type": "BridgeTowerImageProcessor", "size": {"shortest_edge": 40}, "do_center_crop": True},
    ],
)
def test_a_model_without_a_preprocessing_that_is_known_asks_the_study_for_one(processor: Any, tmp_path: Path) -> None:
    path, _ = hf_folder(tmp_path, "vit", processor)
    with pytest.raises(InputError, match="`preprocessing` with size, mean and std"):
        imported(kind="hf", path=str(path))
    found = encoder(imported(kind="hf", path=str(path), preprocessing=GIVEN))
    assert (found.preprocessing.size, found.preprocessing.resize) == (32, None)


def test_an_image_processor_that_shows_an_image_of_another_shape_is_refused(tmp_path: Path) -> None:
    dpt = {"image_processor_type": "DPTImageProcessor", "keep_aspect_ratio": True, "ensure_multiple_of": 8}
    path, _ = hf_folder(tmp_path, "vit", SQUARE | dpt)
    difference = r"its network sees \[3, 32, 40\], and ours would see \[3, 32, 32\]"
    with pytest.raises(InputError, match=f"with size, mean and std, since .*{difference}.*Write them into the study"):
        imported(kind="hf", path=str(path))
    assert encoder(imported(kind="hf", path=str(path), preprocessing=GIVEN)).preprocessing.size == 32


def test_an_image_processor_that_shows_other_pixels_is_refused_by_how_far_they_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.encoders.sources.hf.LEVIT_MARGIN", 1)
    path, _ = hf_folder(tmp_path, "vit", PROCESSORS["levit"])
    with pytest.raises(InputError, match=r"since .*its network and ours would see pixels \d+ levels of 255 apart"):
        imported(kind="hf", path=str(path))


def test_channels_in_another_order_are_a_difference_and_half_a_pixel_of_margin_is_one() -> None:
    how = Preprocessing(size=32, resize=40, rounding="down")
    for other in (how.model_copy(update={"channels": "bgr"}), how.model_copy(update={"rounding": "even"})):
        assert "levels of 255 apart" in pixel_difference(how, partial(seen, how=other))
    assert pixel_difference(how, partial(seen, how=how)) == ""
    np.testing.assert_array_equal(photograph(how), photograph(how))


def test_a_file_that_torchvision_does_not_know_asks_for_the_resizing_where_its_weights_differ(tmp_path: Path) -> None:
    torch.save(models.resnet50().state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"none of torchvision's.*IMAGENET1K_V1 \(resize 256\).*V2 \(resize 232\)"):
        imported(kind="torchvision", name="resnet50", weights=str(tmp_path / "w.pth"))
    digest = sha256_of(tmp_path / "w.pth")
    source = Torchvision(name="resnet50", weights=str(tmp_path / "w.pth"))
    assert _known_by(source, {"w.pth": digest}) is None
    for weights in models.get_model_weights("resnet50"):
        (start,) = re.findall(r"-([0-9a-f]{8})\.pth", weights.url)
        assert _known_by(source, {"w.pth": start + digest[8:]}) is weights


@torch.no_grad()
def test_a_network_whose_input_torchvision_turns_is_given_it_turned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    network = models.googlenet(weights=None, init_weights=False)
    name = models.get_model_weights("googlenet")["DEFAULT"].url.rpartition("/")[2]
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    library: Any = models.get_model("googlenet", weights="DEFAULT").eval()
    library.fc = torch.nn.Identity()
    assert library.transform_input
    found = encoder(imported(kind="torchvision", name="googlenet", pretrained=True))
    image = photo(300, 260)
    pixels = models.get_model_weights("googlenet")["DEFAULT"].transforms()(pil(image))
    ours, theirs = found.embed(image[None])["backbone"], library(pixels[None]).numpy()
    assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)
    with pytest.raises(InputError, match=r"its code turns their input \(transform_input\), as mean and std 0\.5 do"):
        imported(kind="torchvision", name="googlenet", weights=str(tmp_path / "hub" / "checkpoints" / name))


def noisy(width: int, height: int) -> NDArray[np.uint8]:
    """An image with detail at every scale, as photographs have it: uint8 [height, width, 3]."""
    noise = np.fft.rfft2(np.random.default_rng(width).normal(size=(height, width, 3)), axes=(0, 1))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    pink = np.fft.irfft2(noise / np.hypot(rows, columns).clip(1 / width)[..., None], s=(height, width), axes=(0, 1))
    levels: NDArray[np.uint8] = (127.5 + 50 * pink / pink.std()).clip(0, 255).round().astype(np.uint8)
    return levels


@pytest.mark.parametrize("shape", [(260, 300), (333, 500), (375, 500), (500, 375), (768, 1024), (897, 1800), (200, 90)])
def test_the_preset_of_published_decoders_is_what_their_code_shows_the_encoder(shape: tuple[int, int]) -> None:
    stage = Imported.model_validate({"kind": "timm", "name": "x", "untrained": True, "preprocessing": "rcdm"})
    how = preprocessing(stage.preprocessing, IMAGENET)
    image = noisy(*shape)
    square = np.array(rcdm_square(pil(image), 224))
    np.testing.assert_array_equal(fit(image, how.framing), square)
    np.testing.assert_allclose(seen(image, how), square.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_halving_needs_a_side_to_halve_towards() -> None:
    with pytest.raises(ValidationError, match="resize, a number of pixels, and no squash, where halve is true"):
        Preprocessing(halve=True)
    with pytest.raises(InputError, match="no squash, where halve is true"):
        preprocessing(Override(halve=True, squash=True), IMAGENET)


def test_what_the_study_says_of_it_wins_and_a_size_alone_keeps_the_margin() -> None:
    assert Override(size=112).on(IMAGENET) == IMAGENET.model_copy(update={"size": 112, "resize": 128})
    assert Override(size=112, resize=120).on(IMAGENET).resize == 120
    assert Override(resize="square").on(IMAGENET).framing == Framing(224, None, False, "bilinear")
    assert Override(mean=(0.5, 0.5, 0.5)).on(IMAGENET).mean == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="resize to be at least size, 224; found 200"):
        preprocessing(Override(resize=200), IMAGENET)
    stage = Imported.model_validate({"kind": "timm", "name": "x", "untrained": True, "preprocessing": "imagenet"})
    assert stage.preprocessing.on(Preprocessing(size=96, squash=True)) == IMAGENET
    with pytest.raises(ValidationError, match="one of the presets imagenet, rcdm; found 'imagenett'"):
        Imported.model_validate({"kind": "timm", "name": "x", "untrained": True, "preprocessing": "imagenett"})


def test_keys_of_encoders_that_say_nothing_new_of_their_preprocessing_stand() -> None:
    assert fields_of(Preprocessing()) == {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert fields_of(Preprocessing(resize=40))["resize"] == 40
    for preset in ("imagenet", "rcdm"):
        stage = Imported.model_validate({"kind": "timm", "name": "x", "untrained": True, "preprocessing": preset})
        assert ("halve" in fields_of(stage.preprocessing)) == (preset == "rcdm")
    known = ("size", "resize", "squash", "interpolation", "rounding", "mean", "std")
    assert fields_of(Override()) == dict.fromkeys(known)


def test_images_that_are_framed_already_are_not_framed_again() -> None:
    found: NetworkEncoder = encoder(
        imported(kind="timm", name="test_resnet", untrained=True, preprocessing={"size": 32})
    )
    image = photo(32, 32)
    framed = fit(image, found.preprocessing.framing)
    assert not np.array_equal(framed, image)
    whole, cut = found.embed(image[None])["backbone"], found.embed(framed[None])["backbone"]
    assert not np.allclose(whole, cut)
    larger = photo(50, 40)
    again = found.embed(fit(larger, found.preprocessing.framing)[None])["backbone"]
    np.testing.assert_array_equal(found.embed(larger[None])["backbone"], again)
