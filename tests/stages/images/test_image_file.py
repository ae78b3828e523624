"""Image files: every sensible encoding is read alike, everything else is refused with a reason."""

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from stages.errors import InputError
from stages.images import image_file, pixels
from stages.images.framing import Framing, fit
from tests.stages.images.pictures import GRADIENT, encoded, photograph

"""Pixels: every sensible encoding is read alike, everything else is refused with a reason."""


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG of these rows (each begins with its filter, 0), with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims width x height pixels."""
    return png(width, height, 8, 2, b"\0")


def tiff(levels: bytes, width: int, bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """A TIFF of one row of grey, little-endian."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 134), (277, 1), (278, 1)]
    tags += [(279, len(levels)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + levels


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of entries tag, type, count and four bytes of value."""
    packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", 0) + bytes(8)


TURNED_RIGHT = (0x112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize("kind", list(image_file.FORMATS))
def test_every_known_format_is_read(kind: str) -> None:
    data = encoded(Image.fromarray(GRADIENT), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert image_file.has_signature(data[: image_file.SIGNATURE_BYTES])
    assert image_file.inspect(data) == image_file.Header(image_file.FORMATS[kind], width=16, height=24)
    tolerance = {"JPEG": 40, "GIF": 12, "AVIF": 60}.get(kind, 0)
    assert np.abs(image_file.decode(data).astype(int) - GRADIENT).max() <= tolerance


def test_exif_orientation_turns_the_image_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(GRADIENT), "PNG", exif=exif)
    assert np.array_equal(image_file.decode(data), np.rot90(GRADIENT, -1))
    assert image_file.inspect(data) == image_file.Header("png", width=24, height=16)


@pytest.mark.parametrize(
    "other",
    [
        (0x100, 7, 4, b"\1\2\3\4"),
        (0x100, 12, 1, struct.pack("<I", 38)),
        (0x128, 4, 1, struct.pack("<I", 2**32 - 1)),
        (0x11A, 10, 1, struct.pack("<I", 38)),
        (0x10F, 2, 40, struct.pack("<I", 60_000)),
        (0x8825, 2, 4, b"abc\0"),
    ],
)
def test_an_orientation_beside_malformed_entries_is_applied(other: tuple[int, int, int, bytes]) -> None:
    plain = encoded(Image.fromarray(GRADIENT), "JPEG")
    payload = exif_of(other, TURNED_RIGHT)
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + plain[2:]
    assert np.array_equal(image_file.decode(turned), np.rot90(image_file.decode(plain), -1))


@pytest.mark.parametrize("payload", [b"\0\x08\0\2\1\x12", b"b'Exif\\x00'", b"", b"Exif\0\0junk"])
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is(payload: bytes) -> None:
    data = pixels.encode_png(GRADIENT)
    at = data.index(b"IDAT") - 4
    assert np.array_equal(image_file.decode(data[:at] + chunk(b"eXIf", payload) + data[at:]), GRADIENT)
    webp = encoded(Image.fromarray(GRADIENT), "WEBP", lossless=True, exif=payload or b"x")
    assert np.array_equal(image_file.decode(webp), GRADIENT)


@pytest.mark.parametrize(
    ("data", "levels"),
    [
        (tiff(np.array([-32768, -32512, 0, 32767], "<i2").tobytes(), 4, 16, sample_format=2), [0, 1, 128, 255]),
        (tiff(np.array([0, 256, 32768, 65535], "<u2").tobytes(), 4, 16, photometric=0), [255, 254, 127, 0]),
        (tiff(bytes([0x00, 0x00, 0x10, 0x80, 0x0F, 0xFF]), 4, 12), [0, 1, 128, 255]),
        (tiff(np.array([-128, -127, 0, 127], "i1").tobytes(), 4, 8, sample_format=2), [0, 1, 128, 255]),
        (b"P5 2 1 1023\n" + np.array([4, 0], ">u2").tobytes(), [1, 0]),
        (encoded(Image.fromarray(np.zeros((1, 4), dtype=np.uint16)), "PNG"), [0, 0, 0, 0]),
    ],
)
def test_grey_is_scaled_from_the_range_that_the_file_defines(data: bytes, levels: list[int]) -> None:
    assert image_file.decode(data)[0].tolist() == [[level] * 3 for level in levels]


@pytest.mark.parametrize(
    ("levels", "kind", "reason"),
    [
        (np.array([[0, 100, 255]], dtype=np.int32), "TIFF", "grey of 32 bits, whose white is unknown"),
        (np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32), "TIFF", "grey of 32 bits, whose white is unknown"),
        (np.array([[0, 0.5, 1]], dtype=np.float32), "TIFF", "floating-point grey, whose white is unknown"),
        (
            np.array([[0, 4095]], dtype=np.uint16),
            "PNG",
            "16-bit grey that uses 4096 of its 65536 levels, as of 12 bits",
        ),
        (np.array([[0, 255]], dtype=np.uint16), "TIFF", "16-bit grey that uses 256 of its 65536 levels, as of 8 bits"),
    ],
)
def test_grey_without_a_known_white_is_refused(levels: NDArray[Any], kind: str, reason: str) -> None:
    for read in (image_file.decode, image_file.inspect):
        with pytest.raises(InputError) as caught:
            read(encoded(Image.fromarray(levels), kind))
        assert caught.value.found.startswith(reason)


def colour_of_16_bits(*levels: int, alpha: bool = False) -> tuple[bytes, bytes]:
    """A PNG and a TIFF of one row whose red takes these levels."""
    rgb = np.zeros((len(levels), 4 if alpha else 3), dtype=np.uint16)
    rgb[:, 0] = levels
    if alpha:
        rgb[:, 3] = 65535
    sides = (256, len(levels)), (257, 1)
    count = rgb.shape[1]
    tags = [*sides, (258, 16), (259, 1), (262, 2), (273, 0), (277, count), (278, 1), (279, rgb.nbytes)]
    tags += [(338, 2)] if alpha else []
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, value in tags:
        # Bits stand once for each sample, behind the pixels.
        many, value = (count, start + rgb.nbytes) if tag == 258 else (1, start if tag == 273 else value)
        entries += struct.pack("<HHII", tag, 4 if tag == 273 else 3, many, value)
    bits = struct.pack(f"<{count}H", *[16] * count)
    tiff_data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rgb.astype("<u2").tobytes() + bits
    return png(len(levels), 1, 16, 6 if alpha else 2, b"\0" + rgb.astype(">u2").tobytes()), tiff_data


@pytest.mark.parametrize("alpha", [False, True])
def test_colour_of_fewer_than_16_bits_in_16_is_refused(alpha: bool) -> None:
    for levels, words in (((0, 4095), "uses 4096 of its 65536 levels, as of 12 bits"), ((9, 255), "as of 8 bits")):
        for data in colour_of_16_bits(*levels, alpha=alpha):
            with pytest.raises(InputError, match=rf"16-bit RGB that .*{words}"):
                image_file.decode(data)
    for levels, expected in (((0, 4096), [0, 16]), ((0, 0), [0, 0]), ((256, 65535), [1, 255])):
        for data in colour_of_16_bits(*levels, alpha=alpha):
            assert image_file.decode(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("high", [255, 4095])
def test_other_formats_of_fewer_than_16_bits_in_16_are_refused(high: int) -> None:
    levels = np.array([[9, high]], dtype=np.uint16)
    grey_alpha = np.stack([levels, np.full_like(levels, 65535)], axis=2)
    refused = {
        "PNG, grey and alpha": png(2, 1, 16, 4, b"\0" + grey_alpha.astype(">u2").tobytes()),
        "PGM": b"P5 2 1 65535\n" + levels.astype(">u2").tobytes(),
        "PPM": b"P6 # red\n2 1 65535\n" + np.pad(levels.T, ((0, 0), (0, 2))).astype(">u2").tobytes(),
        "JPEG2000": encoded(Image.fromarray(levels), "JPEG2000"),
    }
    for data in refused.values():
        with pytest.raises(InputError, match=rf"16-bit .* uses {high + 1} of its 65536 levels"):
            image_file.decode(data)
    bright = png(2, 1, 16, 4, b"\0" + (grey_alpha | 0x8000).astype(">u2").tobytes())
    assert image_file.decode(bright)[0, :, 0].tolist() == [128, 128 + (high >> 8)]


def test_a_tiff_of_a_layout_that_is_not_read_is_described() -> None:
    with pytest.raises(InputError, match="a TIFF with 1 floating-point samples of 64 bits for each pixel"):
        image_file.decode(tiff(bytes(16), 2, 64, sample_format=3))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF"),
        (b"\n<!DOCTYPE html><html>404", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS in place of the file"),
        (b'<svg xmlns="x"/>', "SVG or another XML"),
    ],
)
def test_files_that_are_often_taken_for_images_are_called_what_they_are(data: bytes, found: str) -> None:
    with pytest.raises(InputError) as caught:
        image_file.decode(data)
    assert caught.value.found == found


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    levels = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(levels), "PNG")
    assert image_file.decode(data)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_fourth_byte_that_is_0_everywhere_is_no_transparency_in_bmp_and_tiff() -> None:
    pixels_rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels_rgba[:, :, 0] = [[10, 20], [30, 40]]
    header = struct.pack(
        "<IiiHHIIiiII4I", 108, 2, -2, 1, 32, 3, 16, 0, 0, 0, 0, 255, 2**8 * 255, 2**16 * 255, 2**24 * 255
    )
    bmp = b"BM" + struct.pack("<IHHI", 14 + 108 + 16, 0, 0, 14 + 108) + header + bytes(108 - 56) + pixels_rgba.tobytes()
    for data in (bmp, encoded(Image.fromarray(pixels_rgba), "TIFF")):
        assert np.array_equal(image_file.decode(data), pixels_rgba[:, :, :3])
    assert (image_file.decode(encoded(Image.fromarray(pixels_rgba), "PNG")) == 255).all()
    pixels_rgba[0, 0, 3] = 255
    assert image_file.decode(encoded(Image.fromarray(pixels_rgba), "TIFF"))[:, :, 0].tolist() == [[10, 255], [255, 255]]


def test_transparency_is_composited_on_white() -> None:
    layer = Image.new("RGBA", (3, 1))
    layer.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    red, clear, half = image_file.decode(encoded(layer, "PNG"))[0].tolist()
    assert (red, clear) == ([255, 0, 0], [255, 255, 255])
    assert all(126 <= level <= 128 for level in half)


def test_a_transparent_palette_colour_is_composited_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    assert image_file.decode(encoded(image, "PNG", transparency=0))[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(2, 1, 8, 2, b"\0\xff\0\0\0\0\xff", chunk(b"tRNS", b"\0\xff\0\0\0\0")), [[255] * 3, [0, 0, 255]]),
        (
            png(2, 1, 16, 2, b"\0\xff\xff" + bytes(8) + b"\x80\0", chunk(b"tRNS", b"\xff\xff\0\0\0\0")),
            [[255] * 3, [0, 0, 128]],
        ),
        (  # the high bytes are those of the transparent colour, the low ones are not
            png(2, 1, 16, 2, b"\0" + b"\x80\1" * 3 + b"\x80\0" * 3, chunk(b"tRNS", b"\x80\1" * 3)),
            [[255] * 3, [128] * 3],
        ),
        (png(2, 1, 16, 0, b"\0\x80\1\x80\0", chunk(b"tRNS", b"\x80\1")), [[255] * 3, [128] * 3]),
        (png(2, 1, 8, 0, b"\0\x4c\x4d", chunk(b"tRNS", b"\0\x4c")), [[255] * 3, [77] * 3]),
        (png(2, 1, 4, 0, b"\0\x12", chunk(b"tRNS", b"\0\1")), [[255] * 3, [34] * 3]),
        (png(4, 1, 2, 0, b"\0\x18", chunk(b"tRNS", b"\0\1")), [[0] * 3, [255] * 3, [170] * 3, [0] * 3]),
        (png(2, 1, 1, 0, b"\0\x40", chunk(b"tRNS", b"\0\0")), [[255] * 3, [255] * 3]),
    ],
)
def test_the_transparent_colour_of_a_png_without_a_palette_is_composited_on_white(
    data: bytes, expected: list[list[int]]
) -> None:
    assert image_file.decode(data)[0].tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(GRADIENT).convert(mode)
    decoded = image_file.decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert decoded.shape == (24, 16, 3)
    assert decoded.dtype == np.uint8


def test_an_image_bomb_is_refused_before_it_is_decoded() -> None:
    for width, height in [(60_000, 60_000), (12_000, 12_000)]:
        with pytest.raises(InputError, match="at most 64000000 pixels"):
            image_file.decode(png_of_size(width, height))


def test_the_pixel_limit_is_inclusive() -> None:
    data = pixels.encode_png(GRADIENT)
    assert image_file.decode(data, pixel_limit=24 * 16).shape == (24, 16, 3)
    with pytest.raises(InputError, match="16 x 24 pixels"):
        image_file.decode(data, pixel_limit=24 * 16 - 1)


def test_several_frames_are_refused() -> None:
    frames = [Image.fromarray(np.full((4, 4), level, dtype=np.uint8)) for level in (0, 100, 200)]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        with pytest.raises(InputError, match="3 frames"):
            image_file.decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(("kind", "sound"), [(1, True), (4, True), (2, False)])
@pytest.mark.parametrize("big", [False, True])
def test_a_smaller_copy_and_a_mask_are_no_pages_of_a_tiff(kind: int, sound: bool, big: bool) -> None:
    beside = Image.fromarray(GRADIENT[::2, ::2])
    beside.encoderinfo = {"tiffinfo": {254: kind}}
    data = encoded(Image.fromarray(GRADIENT), "TIFF", save_all=True, append_images=[beside], big_tiff=big)
    if sound:
        assert np.array_equal(image_file.decode(data), GRADIENT)
        return
    with pytest.raises(InputError, match="2 frames"):
        image_file.decode(data)


def test_a_still_picture_apart_from_one_frame_is_the_image() -> None:
    """As an animated PNG of one frame has it for whoever shows no animations."""
    still, frame = (Image.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)) for level in (10, 200))
    for frames in (1, 2):
        others = [frame, Image.fromarray(GRADIENT[:4, :4])][:frames]
        data = encoded(still, "PNG", save_all=True, append_images=others, default_image=True)
        if frames == 1:
            assert (image_file.decode(data) == 10).all()
            continue
        with pytest.raises(InputError, match="2 frames"):
            image_file.decode(data)


def test_the_photograph_of_a_camera_with_thumbnails_is_read() -> None:
    photo = Image.fromarray(GRADIENT)
    data = encoded(photo, "MPO", save_all=True, append_images=[photo.resize((4, 4))])
    assert image_file.inspect(data) == image_file.Header("jpg", width=16, height=24)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_a_cut_image_is_refused_with_a_reason(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for share in (0.5, 0.9):
        with pytest.raises(InputError, match="found"):
            image_file.decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 95, "subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_lacks_its_end_mark_alone_is_read(options: dict[str, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", **options)
    expected = image_file.decode(data)
    assert np.array_equal(image_file.decode(data[:-2]), expected)
    assert np.array_equal(image_file.decode_fit(data[:-2], 8, scaled=True), image_file.decode_fit(data, 8, scaled=True))
    for missing in range(3, 40):
        with pytest.raises(InputError, match="a damaged JPEG"):
            image_file.decode(data[:-missing])


def test_a_progressive_jpeg_without_its_end_is_refused() -> None:
    # Whether its last scan is missing cannot be seen.
    with pytest.raises(InputError, match="a damaged JPEG"):
        image_file.decode(encoded(Image.fromarray(GRADIENT), "JPEG", progressive=True)[:-2])


def test_an_empty_file_is_called_an_empty_file() -> None:
    with pytest.raises(InputError, match="an empty file"):
        image_file.decode(b"")


HEADS = [b"", pixels.encode_png(GRADIENT)[:20], b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"BM", b"RIFF0000WEBPVP8L"]


def judged(data: bytes) -> bool:
    """Whether `data` decodes to RGB pixels or is refused with a reason; any other error is a crash."""
    try:
        return image_file.decode(data).shape[2:] == (3,)
    except InputError as error:
        return bool(error.found)


@given(st.binary(max_size=300), st.sampled_from(HEADS))
def test_random_bytes_give_an_image_or_a_reason(tail: bytes, head: bytes) -> None:
    assert judged(head + tail)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_an_image_or_a_reason(offset: int, value: int) -> None:
    data = bytearray(encoded(Image.fromarray(GRADIENT), "JPEG"))
    data[offset % len(data)] = value
    assert judged(bytes(data))


def test_reasons_are_equal_from_run_to_run() -> None:
    reasons = set()
    for _ in range(3):
        with pytest.raises(InputError) as caught:
            image_file.decode(b"no image at all")
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()


FRAMINGS: list[int | Framing] = [
    16,
    20,
    Framing(12, resize=15),
    Framing(12, resize=15, squash=True),
    Framing(12, resize=12, rounding="down", halve=True),
    Framing(9, interpolation="bilinear"),
]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_decoding_and_framing_at_once_is_decoding_and_then_framing(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(GRADIENT), kind, **({} if kind == "BMP" else {"exif": exif}))
    for framing in FRAMINGS:
        assert np.array_equal(image_file.decode_fit(data, framing), fit(image_file.decode(data), framing))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "RGBA"])
def test_other_colour_modes_are_framed_alike(mode: str) -> None:
    data = encoded(Image.fromarray(GRADIENT).convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    assert np.array_equal(image_file.decode_fit(data, 9), fit(image_file.decode(data), 9))


@pytest.mark.parametrize(
    ("name", "digests"),
    [
        ("scenes.jpg", {96: "cff3eef30ed420cd", 64: "c9ac6955eafd0f7e", 224: "1bd7c6df4793fd18"}),
        ("scenes.png", {96: "2d32f901394a3ed2", 64: "70a024710a9b6b05", 224: "49214f93eecdbd9a"}),
    ],
)
def test_pixels_are_those_that_stored_embeddings_were_made_of(name: str, digests: dict[int, str]) -> None:
    data = (Path(__file__).parents[2] / "data/images" / name).read_bytes()
    found = {size: hashlib.sha256(image_file.decode_fit(data, size).tobytes()).hexdigest()[:16] for size in digests}
    assert found == digests


def apart(data: bytes, framing: int | Framing) -> NDArray[np.int64]:
    """Levels between an image decoded at a part of its size and at all of it."""
    exact, scaled = (image_file.decode_fit(data, framing, scaled=how).astype(np.int64) for how in (False, True))
    assert exact.shape == scaled.shape
    found: NDArray[np.int64] = np.abs(exact - scaled)
    return found


@pytest.mark.parametrize("shape", [(301, 225), (225, 301), (257, 257), (600, 131), (130, 135)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"mode": "L"}, {"mode": "CMYK"}])
def test_a_jpeg_at_a_part_of_its_size_is_a_level_from_all_of_it(
    shape: tuple[int, int], options: dict[str, Any]
) -> None:
    kept = {name: value for name, value in options.items() if name != "mode"}
    data = encoded(photograph(*shape, mode=options.get("mode", "RGB")), "JPEG", quality=90, **kept)
    found = apart(data, 16)
    assert 0 < found.mean() < 0.75
    assert found.max() <= 12


TURNED: list[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = [
    lambda image: image,
    lambda image: image[:, ::-1],
    lambda image: image[::-1, ::-1],
    lambda image: image[::-1],
    lambda image: image.transpose(1, 0, 2),
    lambda image: image.transpose(1, 0, 2)[:, ::-1],
    lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    lambda image: image.transpose(1, 0, 2)[::-1],
]
"""What an EXIF orientation of 1 … 8 makes of a stored image."""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_at_a_part_of_its_size_is_upright_and_not_shifted(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # At an eighth, 129 x 143 pixels are 17 x 18, of which the last stand for one column and seven rows.
    picture = photograph(129, 143)
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    stored = image_file.decode_fit(encoded(picture, "JPEG", quality=95), 8, scaled=True)
    assert np.array_equal(image_file.decode_fit(data, 8, scaled=True), TURNED[orientation - 1](stored))
    assert apart(data, 8).mean() < 0.75


def test_only_jpegs_that_keep_twice_the_resolution_are_decoded_at_a_part_of_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drafted: list[int] = []
    draft = JpegImageFile.draft

    def seen(self: JpegImageFile, mode: Any, size: Any) -> Any:
        found = draft(self, mode, size)
        drafted.append(min(self.size))
        return found

    monkeypatch.setattr(JpegImageFile, "draft", seen)
    for side, expected in [(63, []), (64, [32]), (127, [64]), (128, [32]), (256, [32]), (600, [75])]:
        data = encoded(photograph(side + 9, side), "JPEG")
        drafted.clear()
        image_file.decode_fit(data, 16, scaled=True)
        assert drafted == expected
        assert apart(data, 16).any() == bool(expected)


LIBRARIES = [Framing(16, resize=16), Framing(16, resize=20), Framing(16, squash=True)]


def test_a_librarys_own_framing_and_other_formats_are_left_exact() -> None:
    picture = photograph(260, 200)
    jpeg = encoded(picture, "JPEG")
    assert apart(jpeg, 16).any()
    assert not any(apart(jpeg, framing).any() for framing in LIBRARIES)
    assert not any(apart(encoded(picture, kind), 16).any() for kind in ("PNG", "WEBP", "TIFF", "BMP"))


def test_at_a_part_of_its_size_an_image_is_refused_for_what_it_is_refused_for_whole() -> None:
    data = encoded(photograph(260, 200), "JPEG")
    with pytest.raises(InputError, match="260 x 200 pixels, above the limit of 51999"):
        image_file.decode_fit(data, 8, pixel_limit=260 * 200 - 1, scaled=True)
    with pytest.raises(InputError, match="a damaged JPEG"):
        image_file.decode_fit(data[: len(data) // 2], 8, scaled=True)
    with pytest.raises(InputError, match="at most 64000000 pixels"):
        image_file.decode_fit(png_of_size(60_000, 60_000), 8, scaled=True)
    camera = encoded(photograph(260, 200), "MPO", save_all=True, append_images=[photograph(20, 20)])
    assert apart(camera, 16).mean() < 0.75


def test_warnings_of_pillow_are_silent_in_every_thread_and_those_of_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # Pillow warns of more
    data = encoded(Image.fromarray(GRADIENT), "PNG")
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(image, GRADIENT) for image in pool.map(image_file.decode, [data] * 64))
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", stacklevel=1)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("halve", [False, True])
def test_a_line_of_pixels_is_not_resized_to_gigabytes(
    shape: tuple[int, int], halve: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    levels = np.repeat(np.arange(20_000) // 5_000 * 60, 3).reshape(*shape[::-1], 3).astype(np.uint8)
    found = image_file.decode_fit(pixels.encode_png(levels), Framing(224, resize=256, halve=halve))
    assert max(width * height for width, height in sizes) <= 256 * 256
    middle = found if shape[0] == 1 else found.transpose(1, 0, 2)
    # A pixel of the line is 256 of the square, so the cut shows little more than the edge in its middle.
    assert np.abs(middle[0].astype(int) - 60).max() <= 3
    assert np.abs(middle[-1].astype(int) - 120).max() <= 3


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("LA", "PNG", {}),
        ("P", "PNG", {}),
        ("RGB", "PNG", {"transparency": (9, 9, 9)}),
        ("L", "PNG", {"transparency": 9}),
    ],
)
def test_alpha_is_read_of_every_way_to_store_it(mode: str, kind: str, options: dict[str, Any]) -> None:
    layer = np.full((6, 5, 4), (200, 200, 200, 255), dtype=np.uint8)
    layer[2, 1:] = (9, 9, 9, 0)
    image = Image.fromarray(layer)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 3
    found = image_file.decode_with_alpha(encoded(image, kind, exif=exif, **options))
    assert found[:, :, 3].tolist() == layer[::-1, ::-1, 3].tolist()
    assert np.abs(found[0, 0, :3].astype(int) - 200).max() <= 1


def test_alpha_of_sixteen_bits_is_its_high_byte_and_a_file_without_any_is_opaque() -> None:
    rows = b"\0" + struct.pack(">4H4H", 0xC800, 0xC800, 0xC800, 0x4000, 0, 0, 0, 0xFFFF)
    assert image_file.decode_with_alpha(png(2, 1, 16, 6, rows)).tolist() == [[[200, 200, 200, 64], [0, 0, 0, 255]]]
    opaque = image_file.decode_with_alpha(encoded(Image.fromarray(GRADIENT), "PNG"))
    assert np.array_equal(opaque[:, :, :3], GRADIENT)
    assert opaque[:, :, 3].min() == 255


def test_chunks_that_no_pixel_depends_on_may_be_broken() -> None:
    rows = b"".join(b"\0" + bytes([9, 8, 7] * 2) for _ in range(2))
    large = zlib.compress(bytes(3_000_000))
    sound = chunk(b"tEXt", b"Title\0mine")
    broken = {
        "checksum of a text": chunk(b"tEXt", b"Author\0me")[:-1] + b"?",
        "checksum of the gamma": chunk(b"gAMA", bytes(4))[:-1] + b"?",
        "too short": chunk(b"pHYs", b"\0"),
        "profile of megabytes": chunk(b"iCCP", b"p\0\0" + large),
        "text of megabytes": chunk(b"iTXt", b"Comment\0\1\0\0\0" + large),
    }
    turned = chunk(b"eXIf", exif_of(TURNED_RIGHT)[6:])
    for data in broken.values():
        for chunks in ((data,), (sound, data, sound), (data, turned)):
            assert np.array_equal(image_file.decode(png(2, 2, 8, 2, rows, *chunks)), np.full((2, 2, 3), (9, 8, 7)))
    picture = encoded(Image.fromarray(GRADIENT), "PNG")
    at = picture.index(b"IDAT") - 4
    turned_and_broken = picture[:at] + turned + broken["too short"] + picture[at:]
    assert np.array_equal(image_file.decode(turned_and_broken), np.rot90(GRADIENT, -1))
    for refused in (chunk(b"tRNS", bytes(6))[:-1] + b"?", b"\xff\xff\xff\xfftEXt"):
        with pytest.raises(InputError):
            image_file.decode(png(2, 2, 8, 2, rows, refused))


def test_segments_of_a_jpeg_that_no_pixel_depends_on_may_be_broken() -> None:
    plain = encoded(Image.fromarray(GRADIENT), "JPEG", quality=95)
    expected = image_file.decode(plain)
    exif = exif_of(TURNED_RIGHT)
    turned = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    for marker, content in (
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xED, b"Photoshop 3.0\x008BIM\4\4"),
        (0xEE, b"Adobe\0"),
        (0xE0, b"JFIF\0"),
    ):
        broken = b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        assert np.array_equal(image_file.decode(plain[:2] + broken + plain[2:]), expected)
        assert np.array_equal(image_file.decode(plain[:2] + turned + broken + plain[2:]), np.rot90(expected, -1))
    colours = encoded(Image.fromarray(GRADIENT).convert("CMYK"), "JPEG", quality=95)
    broken = b"\xff\xe2\0\x0fICC_PROFILE\0\1"
    assert np.array_equal(image_file.decode(colours[:2] + broken + colours[2:]), image_file.decode(colours))
