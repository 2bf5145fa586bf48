"""Any bytes give upright RGB pixels or a PhotoError, and leave Pillow as they found it."""

import io
import itertools
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageCms

from carclf.data import photos
from carclf.data.photos import FORMATS, Limits, PhotoError, probe, read_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
LOSSY = {"AVIF", "HEIF", "JPEG", "WEBP"}
WITH_EXIF = [kind for kind in FORMATS if kind not in ("BMP", "GIF", "PPM")]
# Orientation -> what a camera held that way stores of an upright picture.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def measure_photo(source, **options) -> tuple[int, int]:
    """Upright size of a photo, as a scan finds it from the smallest scale."""
    return probe(source, 1, **options)[0]


WAYS = [read_photo, measure_photo]


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 64, height: int = 40) -> Image.Image:
    return Image.fromarray(PIXELS).resize((width, height))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png(width: int, height: int, lines: bytes = b"\0", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims a size; by default it holds hardly a pixel of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def profile(space: bytes, connection: bytes = b"XYZ ", **tags: bytes) -> bytes:
    """A colour profile (ICC.1:2001) of a space, b"RGB ", b"GRAY" or b"CMYK", with its tags."""
    tags["wtpt"] = xyz(0.9642, 1, 0.8249)  # D50
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = struct.pack(">I4sI", start + len(body), b"", 0x02100000)
    header = size + b"mntr" + space + connection + bytes(12) + b"acsp" + bytes(28) + tags["wtpt"][8:]
    return header.ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(exponent: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(exponent * 256))


def rgb_profile(exponent: float, primaries) -> bytes:
    """Of red, green and blue primaries in XYZ under D50."""
    curves = dict.fromkeys(("rTRC", "gTRC", "bTRC"), gamma(exponent))
    colours = {name: xyz(*primary) for name, primary in zip(("rXYZ", "gXYZ", "bXYZ"), primaries, strict=True)}
    return profile(b"RGB ", **curves, **colours)


def grey_inks() -> bytes:
    """A press whose four inks are all grey: each halves the lightness."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    corners = [bin(inks).count("1") for inks in range(16)]
    lab = b"".join(bytes([round(255 / 2**inks), 128, 128]) for inks in corners)
    line = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + line * 4 + lab + line * 3
    return profile(b"CMYK", b"Lab ", A2B0=table)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_PRIMARIES = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
ADOBE_PRIMARIES = np.array([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]])
P3_PRIMARIES = np.array([[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]])


def to_srgb(pixels: np.ndarray, exponent: float, primaries: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] in sRGB of uint8 [..., 3], by the definitions of the two spaces."""
    linear = ((pixels / 255) ** exponent @ primaries @ np.linalg.inv(SRGB_PRIMARIES)).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().astype(np.uint8)


def refusal(source, way=read_photo, **options) -> PhotoError:
    with pytest.raises(PhotoError) as caught:
        way(source, **options)
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


@pytest.mark.parametrize("kind", ["GIF", "MPO", "PNG", "WEBP", *{"AVIF"} & {*FORMATS}])  # MPO: of some cameras
def test_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    photo = read_photo(encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
    assert photo.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


def test_inks_of_a_jpeg_are_inverted_with_and_without_adobes_mark_as_in_browsers():
    data = encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG")
    start = data.index(b"\xff\xee")  # its segment APP14
    unmarked = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    assert b"Adobe" in data and b"Adobe" not in unmarked
    assert read_photo(unmarked).tobytes() == read_photo(data).tobytes()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("TIFF", "RGB"), ("PNG", "P"), ("PNG", "RGBA")])
@pytest.mark.parametrize(
    ("exponent", "primaries"), [(563 / 256, ADOBE_PRIMARIES), (2.2, P3_PRIMARIES), (1.8, SRGB_PRIMARIES)]
)
def test_colours_of_a_profile_become_those_of_srgb(kind, mode, exponent, primaries):
    pixels = np.concatenate([PIXELS // 2 + 64, np.arange(256, dtype=np.uint8).repeat(30).reshape(40, 64, 3)])
    image = Image.fromarray(pixels)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    photo = read_photo(encode(image, kind, icc_profile=rgb_profile(exponent, primaries)))
    before = np.asarray(image.convert("RGB")).astype(int)
    expected = to_srgb(before, round(exponent * 256) / 256, primaries)  # the exponent as a profile stores it
    assert np.abs(np.asarray(photo) - expected.astype(int)).max() <= 2
    assert np.abs(expected - before).max() > 10  # the profile matters
    assert "icc_profile" not in photo.info  # nobody converts it a second time


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_profile_of_greys(mode):
    image = Image.new("L", (32, 32), 100).convert(mode)
    photo = read_photo(encode(image, icc_profile=profile(b"GRAY", kTRC=gamma(1.0))))
    expected = to_srgb(np.array([100, 100, 100]), 1.0, SRGB_PRIMARIES)
    assert photo.getpixel((3, 3)) == pytest.approx(tuple(expected.tolist()), abs=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_become_rgb_and_a_profile_decides_what_they_look_like(kind):
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    plain, grey = read_photo(encode(cyan, kind)), read_photo(encode(cyan, kind, icc_profile=grey_inks()))
    assert plain.mode == grey.mode == "RGB"
    assert plain.getpixel((3, 3)) == pytest.approx((0, 255, 255), abs=3)
    assert grey.getpixel((3, 3)) == pytest.approx((119, 119, 119), abs=3)  # L* = 50


@pytest.mark.parametrize(
    ("mode", "unusable"),
    [
        *itertools.product(["RGB", "L", "CMYK"], [b"junk", SRGB[:200], SRGB[:128] + bytes(len(SRGB) - 128)]),
        *itertools.product(["RGB", "L", "CMYK"], [rgb_profile(2.2, P3_PRIMARIES)[:-40]]),
        *[("RGB", SRGB), ("RGB", grey_inks()), ("L", rgb_profile(2.2, P3_PRIMARIES)), ("CMYK", SRGB)],
    ],
)
def test_profile_that_is_broken_or_srgb_or_for_other_pixels_changes_nothing(mode, unusable):
    image = picture().convert(mode)
    assert read_photo(encode(image, "TIFF", icc_profile=unusable)).tobytes() == image.convert("RGB").tobytes()


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


def tiff(values: np.ndarray, sample: int = 1, order: str = "<") -> bytes:
    """A TIFF of uint16 to float32 [height, width] or [height, width, 3]; samples 2: signed, 3: float."""
    height, width, channels = (*values.shape, 1)[:3]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: values.dtype.itemsize * 8, 259: 1, 262: 1 if channels == 1 else 2, 273: 8}
    tags |= {277: channels, 278: height, 279: len(data), 339: sample}
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return header + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits from uint16 [height, width, channels] of grey and alpha, RGB or RGBA."""
    height, width, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return png(width, height, lines, 16, {2: 4, 3: 2, 4: 6}[channels])


RAMP = np.linspace(0, 1, 64 * 32).reshape(32, 64)


GREYS = [("u2", 1, 65535), *[("i4", 2, full) for full in (65535, 10**5, 2 * 10**9)]]
GREYS += [("f4", 3, full) for full in (1, 10**5, 2 * 10**9)]  # beyond the usual range, the brightest is the scale


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "sample", "full"), GREYS)
def test_deep_greys_of_tiffs_are_scaled_and_none_clipped(order, dtype, sample, full):
    photo = np.asarray(read_photo(tiff((RAMP * full).astype(dtype), sample, order)))
    np.testing.assert_allclose(photo, np.repeat((RAMP * 255)[..., None], 3, axis=2), atol=0.51)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -5.0, 3e38])
def test_strange_numbers_among_greys_are_no_error(value):
    values = RAMP.astype("f4")
    values[0, 0] = value
    assert read_photo(tiff(values, sample=3)).size == (64, 32)


@pytest.mark.parametrize(
    ("write", "channels"), [(tiff, 3), (partial(tiff, order=">"), 3), (png16, 2), (png16, 3), (png16, 4)]
)
def test_deep_colours_and_alpha_are_scaled(write, channels):
    values = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1], np.ones_like(RAMP)], axis=2)
    values = values[..., [0, 3]] if channels == 2 else values[..., :channels]
    photo = np.asarray(read_photo(write((values * 65535).astype("u2"))))
    np.testing.assert_allclose(photo, values[..., [0, 0, 0] if channels == 2 else [0, 1, 2]] * 255, atol=1)


@pytest.mark.parametrize("kind", WITH_EXIF)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_upright(kind, orientation):
    upright = np.kron([[0, 85], [170, 255]], np.ones((16, 24))).astype(np.uint8)[..., None].repeat(3, axis=2)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encode(stored, kind, exif=oriented(orientation).tobytes())
    photo = read_photo(data)
    assert photo.getexif().get(0x0112, 1) == 1  # nobody turns it a second time
    assert photo.size == measure_photo(data) == (48, 32)
    np.testing.assert_allclose(np.asarray(photo)[4::8, 4::8], upright[4::8, 4::8], atol=8 if kind in LOSSY else 0)


# Reduced to an eighth and rounded up, 100 × 97 pixels are square.
@pytest.mark.parametrize("size", [(64, 40), (100, 97), (40, 40), (17, 160)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_measured_size_is_that_of_the_photo(kind, orientation, size):
    data = encode(picture(*size), kind, exif=oriented(orientation))
    assert measure_photo(data) == read_photo(data).size


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_deep_grey_photo_is_turned(mode):
    values = (RAMP * 65535).astype("<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (64, 32), values.tobytes())
    plain, turned = (read_photo(encode(image, "TIFF", exif=oriented(orientation))) for orientation in (1, 6))
    assert turned.tobytes() == plain.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("at_least", [1, 50, 75, 99, 100, 150, 299, 300, 1000])
def test_reduced_photo_is_large_enough_and_no_larger_than_needed_and_only_a_jpeg_is_reduced(at_least):
    photo = read_photo(encode(picture(400, 300), "JPEG"), at_least=at_least)
    scale = 400 / photo.width
    assert scale in (1, 2, 4, 8)
    assert min(photo.size) >= min(at_least, 300)
    assert scale == 8 or 300 / (2 * scale) < at_least
    assert read_photo(encode(picture(400, 300)), at_least=at_least).size == (400, 300)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "empty", "no bytes"),
        (b"<!DOCTYPE html><title>404</title>", "not an image", "<!DOCTYP"),
        (b"\xff", "not an image", "begins with"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", "not an image", "%!PS"),
        (png(60_000, 60_000), "too many pixels", "3600000000"),
        (png(9000, 9000), "too many pixels", "9000 × 9000, at most 80,000,000"),
        (png(10_000, 10_000), "too many pixels", "at most 80,000,000"),  # Pillow warns above 9459
        (png(14_000, 14_000), "too many pixels", "exceeds limit"),  # and raises above 13377
        (encode(picture(200, 15)), "too small", "200 × 15 pixels, at least 16"),
        (encode(picture(1, 1), "GIF"), "too small", "1 × 1"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(500), "unsupported", "JPEG XL; convert it to JPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(500), "unsupported", "JPEG 2000; convert it to JPEG"),
        (
            encode(picture(), "TIFF", tiffinfo={254: 1}),
            "unsupported",
            "a raw file, of which only a preview",
        ),  # DNG, NEF
    ],
)
def test_bad_bytes_are_refused_with_their_reason(way, data, reason, detail):
    error = refusal(data, way)
    assert error.reason == reason
    assert detail in error.detail


@pytest.mark.parametrize("way", WAYS)
def test_limits_are_settings(way, tmp_path):
    path, data = tmp_path / "photo.png", encode(picture(64, 40))
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        error = refusal(source, way, limits=Limits(max_bytes=len(data) - 1))
        assert error.reason == "too large"
        assert f"{len(data) - 1:,}" in error.detail
    assert way(data, limits=Limits(max_pixels=64 * 40, max_bytes=len(data), min_side=40))
    detail = "64 × 40, at most 2,559 are decoded; save it smaller"
    assert refusal(data, way, limits=Limits(max_pixels=64 * 40 - 1)).detail == detail
    assert refusal(data, way, limits=Limits(min_side=41)).detail == "64 × 40 pixels, at least 41 a side are needed"


@pytest.mark.parametrize("way", WAYS)
def test_pillows_own_limit_stays_above_ours(way):
    error = refusal(png(14_000, 14_000), way, limits=Limits(max_pixels=10**9))
    assert error.reason == "too many pixels"
    assert "PIL.Image.MAX_IMAGE_PIXELS" in error.detail
    # Below it, where Pillow only warns, the decoder is asked, and finds that this file holds no pixels.
    assert refusal(png(10_000, 10_000), way, limits=Limits(max_pixels=10**9)).reason == "truncated"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{"kind": "JPEG"}, {"kind": "JPEG", "progressive": True}, {"kind": "PNG"}])
def test_cut_photo_is_refused(way, options):
    data = encode(picture(), **options)
    for kept in (0.9, 0.7, 0.5):
        assert refusal(data[: int(len(data) * kept)], way).reason == "truncated"


@pytest.mark.parametrize("way", WAYS)
def test_bad_places_are_refused_without_waiting(tmp_path, way):
    assert refusal(tmp_path / "absent.jpg", way).detail == "there is no such file"
    assert refusal(tmp_path, way).detail == "not a regular file"
    for name in ("a\0b.jpg", "x" * 5000, ""):
        assert refusal(name, way).reason == "unreadable"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert refusal(tmp_path / "pipe.jpg", way).detail == "not a regular file"


def test_wrong_kinds_of_source_are_refused(tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(picture()))
    with (tmp_path / "photo.png").open(encoding="utf-8") as file:
        assert "open it with mode 'rb'" in refusal(file).detail
    assert "closed" in refusal(file.buffer).detail
    assert "not int" in refusal(42).detail
    assert "not NoneType" in refusal(None).detail


def test_heic_is_read_where_pillow_heif_is():
    pytest.importorskip("pillow_heif", minversion="1.8")
    image = picture(400, 300)
    photo = read_photo(encode(image, "HEIF", quality=95, thumbnails=[100]), at_least=10)
    assert photo.size == (400, 300)  # not its thumbnail
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(image)).mean() < 12


def test_heic_that_lies_about_its_size_is_refused_before_it_is_decoded():
    pytest.importorskip("pillow_heif", minversion="1.8")
    data = encode(picture(640, 400), "HEIF")
    start = data.index(b"ispe") + 8
    lie = data[:start] + struct.pack(">II", 64, 40) + data[start + 8 :]
    assert "Security limit" in refusal(lie).detail
    huge = data[:start] + struct.pack(">II", 12_000, 12_000) + data[start + 8 :]
    assert refusal(huge, limits=Limits(max_pixels=80_000_000)).reason == "too many pixels"


@pytest.mark.parametrize(
    ("brand", "kind", "remedy"),
    [(b"heic", "HEIF", "pillow-heif"), (b"mif1", "HEIF", "pillow-heif"), (b"avif", "AVIF", "pillow")],
)
def test_photo_whose_reader_is_missing_is_refused_with_the_remedy(monkeypatch, brand, kind, remedy):
    monkeypatch.setattr(photos, "FORMATS", tuple(f for f in FORMATS if f != kind and f != "AVIF"))
    error = refusal(b"\0\0\0\x1cftyp" + brand + bytes(500))
    assert error.reason == "unsupported"
    assert f"pip install {remedy} -U" in error.detail
    assert refusal(b"\0\0\0\x1cftypisom" + bytes(500)).reason == "not an image"  # a film


@pytest.mark.parametrize("module", ["None", "types.SimpleNamespace(__version__='1.7.0')"])
def test_without_pillow_heif_or_with_an_old_one_everything_else_is_read(module):
    code = f"""if True:
        import io, sys, types
        sys.modules["pillow_heif"] = {module}
        from PIL import Image
        from carclf.data.photos import FORMATS, PhotoError, read_photo
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, "JPEG")
        assert read_photo(file.getvalue()).size == (32, 32)
        assert "HEIF" not in FORMATS and "HEIF" not in Image.OPEN
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_broken_exif_leaves_the_pixels_silently_and_the_warning_filters_stay():
    data = encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    before = [*warnings.filters]
    with ThreadPoolExecutor(4) as pool:  # warnings are errors in this test
        sizes = list(pool.map(lambda way: (way(data), way(data))[1], WAYS * 50))
    assert sizes[1::2] == [(64, 40)] * 50
    assert warnings.filters == before
