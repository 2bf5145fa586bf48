"""Any bytes give upright RGB pixels or a PhotoError, and leave Pillow as they found it."""

import contextlib
import io
import os
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from carclf import photos
from carclf.photos import FORMATS, PhotoError, measure_photo, read_photo

ORIENTATION = 0x0112
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
WAYS = [read_photo, measure_photo]


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 64, height: int = 40) -> Image.Image:
    return Image.fromarray(PIXELS).resize((width, height))


def turned(kind: str, orientation: int, width: int = 64, height: int = 40) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(picture(width, height), kind, exif=exif)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly a pixel of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def refusal(source, way=read_photo) -> PhotoError:
    with pytest.raises(PhotoError) as caught:
        way(source)
    error = caught.value
    assert error.reason in PhotoError.REASONS
    assert error.detail and str(error) == f"{error.reason}: {error.detail}"
    return error


def test_bytes_path_and_file_give_equal_pixels(tmp_path):
    data = encode(Image.fromarray(PIXELS))
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        sources = [data, bytearray(data), memoryview(data), path, str(path), io.BytesIO(data), file]
        for source in sources:
            photo = read_photo(source)
            assert photo.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(photo), PIXELS)


@pytest.mark.parametrize("kind", FORMATS)
def test_content_decides_not_the_ending(tmp_path, kind):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(picture(), kind))
    assert read_photo(path).size == measure_photo(path) == (64, 40)


def test_formats_are_those_this_pillow_has():
    assert set(FORMATS) <= set(Image.OPEN)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    photo = read_photo(encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50))
    assert photo.getpixel((5, 5)) == (255, 0, 0)


def test_multi_picture_file_of_a_camera_gives_its_first_picture():
    data = encode(Image.new("RGB", (32, 32), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    assert read_photo(data).getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


def test_cmyk_becomes_rgb():
    photo = read_photo(encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "TIFF"))
    assert photo.mode == "RGB"
    assert photo.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode):
    grey = Image.new("RGBA", (32, 32), (100, 100, 100, 255))
    grey.paste((0, 0, 0, 0), (0, 0, 16, 32))
    grey.paste((0, 0, 0, 128), (16, 0, 20, 32))
    image = grey.quantize() if mode == "P" else grey.convert(mode)
    photo = read_photo(encode(image))
    assert photo.getpixel((2, 5)) == (255, 255, 255)
    assert photo.getpixel((18, 5)) == pytest.approx((127, 127, 127), abs=1)
    assert photo.getpixel((30, 5)) == (100, 100, 100)


@pytest.mark.parametrize("image", [Image.new("RGB", (32, 32), "red"), Image.new("L", (32, 32), 7)])
def test_transparent_colour_lies_on_white(image):
    data = encode(image, transparency=image.getpixel((0, 0)))
    assert read_photo(data).getpixel((3, 3)) == (255, 255, 255)


def test_every_16_bit_grey_is_scaled_and_none_clipped():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    photo = np.asarray(read_photo(encode(Image.fromarray(values))))
    np.testing.assert_array_equal(photo, np.repeat((values / 257).round().astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_upright(kind, orientation):
    data = turned(kind, orientation)
    with Image.open(io.BytesIO(data)) as image:
        reference = ImageOps.exif_transpose(image).convert("RGB")
    photo = read_photo(data)
    assert photo.getexif().get(ORIENTATION, 1) == 1  # nobody turns it a second time
    np.testing.assert_array_equal(np.asarray(photo), np.asarray(reference))


# Reduced to an eighth and rounded up, 100 × 97 pixels are square.
@pytest.mark.parametrize("size", [(64, 40), (100, 97), (40, 40), (17, 160)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_measured_size_is_that_of_the_photo(kind, orientation, size):
    data = turned(kind, orientation, *size)
    assert measure_photo(data) == read_photo(data).size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_leaves_the_pixels():
    data = encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12")
    assert read_photo(data).size == measure_photo(data) == (64, 40)


@pytest.mark.parametrize("at_least", [1, 50, 75, 99, 100, 150, 299, 300, 1000])
def test_reduced_photo_is_large_enough_and_no_larger_than_needed(at_least):
    photo = read_photo(encode(picture(400, 300), "JPEG"), at_least=at_least)
    scale = 400 / photo.width
    assert scale in (1, 2, 4, 8)
    assert min(photo.size) >= min(at_least, 300)
    assert scale == 8 or 300 / (2 * scale) < at_least


def test_reduction_leaves_other_formats_alone():
    assert read_photo(encode(picture(400, 300)), at_least=10).size == (400, 300)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "empty", "no bytes"),
        (b"<!DOCTYPE html><title>404</title>", "not an image", "<!DOCTYP"),
        (b"\xff", "not an image", "begins with"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", "not an image", "%!PS"),
        (png_header(60_000, 60_000), "too many pixels", "3600000000"),
        (png_header(9000, 9000), "too many pixels", "9000 × 9000, at most 80,000,000"),
        (encode(picture(200, 15)), "too small", "200 × 15 pixels, at least 16"),
        (encode(picture(1, 1), "GIF"), "too small", "1 × 1"),
    ],
)
def test_bad_bytes_are_refused_with_their_reason(way, data, reason, detail):
    error = refusal(data, way)
    assert error.reason == reason
    assert detail in error.detail


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow warns above 89 million pixels, and raises above twice as many
@pytest.mark.parametrize("side", [9000, 10_000, 14_000])
def test_bomb_is_refused_whatever_warnings_do(side):
    assert refusal(png_header(side, side)).reason == "too many pixels"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{"kind": "JPEG"}, {"kind": "JPEG", "progressive": True}, {"kind": "PNG"}])
def test_cut_photo_is_refused(way, options):
    data = encode(picture(), **options)
    for kept in (0.9, 0.7, 0.5):
        assert refusal(data[: int(len(data) * kept)], way).reason == "truncated"


def test_what_can_be_measured_can_be_read():
    data = encode(picture(200, 150), "JPEG")
    for length in range(100, len(data), len(data) // 40):
        try:
            size = measure_photo(data[:length])
        except PhotoError:
            continue
        assert read_photo(data[:length]).size == size


@pytest.mark.parametrize("way", WAYS)
def test_bad_places_are_refused(tmp_path, way):
    assert refusal(tmp_path / "absent.jpg", way).detail == "there is no such file"
    assert refusal(tmp_path, way).detail == "not a regular file"
    for name in ("a\0b.jpg", "x" * 5000, ""):
        assert refusal(name, way).reason == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refusal(tmp_path / "pipe.jpg").detail == "not a regular file"


def test_wrong_kinds_of_source_are_refused(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(picture(), "JPEG"))
    with path.open(encoding="utf-8") as file:
        assert "open it with mode 'rb'" in refusal(file).detail
    with path.open("rb") as file:
        pass
    assert "closed" in refusal(file).detail
    assert "not int" in refusal(42).detail
    assert "not NoneType" in refusal(None).detail


def test_huge_file_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "MAX_BYTES", 1000)
    data = encode(picture())
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        assert "1,000" in refusal(source).detail


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Overwritten, cut, doubled or shuffled bytes, mostly near the header, where decoders believe what they read."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        place = rng.randrange(min(len(changed), rng.choice([40, 400, len(changed)])))
        changed[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
    start, end = sorted(rng.sample(range(len(changed)), 2))
    how = rng.randrange(5)
    if how == 0:
        del changed[start:]
    elif how == 1:
        changed[start:end] = changed[start:end] * 2
    elif how == 2:
        del changed[start:end]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # Pillow's warnings about broken metadata
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_fuzzed_photo_gives_pixels_or_photo_error(kind):
    rng = random.Random(kind)
    data = turned(kind, 6) if kind != "GIF" else encode(picture(), kind)
    refused = 0
    for _ in range(40):
        broken = mutate(data, rng)
        try:
            assert read_photo(broken).mode == "RGB"
        except PhotoError as error:
            assert error.reason in PhotoError.REASONS
            refused += 1
        with contextlib.suppress(PhotoError):
            measure_photo(broken)
    assert refused


def test_pillow_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    read_photo(encode(picture(), "JPEG"))
    for bad in (png_header(9000, 9000), encode(picture())[:500], b"junk"):
        refusal(bad)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.skipif(sys.platform != "linux", reason="no list of open files")
def test_no_file_stays_open(tmp_path):
    handles = Path("/proc/self/fd")
    (tmp_path / "good.jpg").write_bytes(encode(picture(), "JPEG"))
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    before = len(list(handles.iterdir()))
    photo = read_photo(tmp_path / "good.jpg")
    refusal(tmp_path / "bad.jpg")
    assert len(list(handles.iterdir())) == before
    assert photo.size == (64, 40)
