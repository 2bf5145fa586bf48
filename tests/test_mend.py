"""A photo whose pixels are whole is used although its file is not, with a note; one that lacks pixels never is."""

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from test_photos import P3_PRIMARIES, encode, oriented, picture, refusal, rgb_profile

from carclf.data import mend
from carclf.data.photos import Limits, probe, read_photo

BROKEN_OFF, TEXTS = "the file breaks off, but all pixels are there", "large texts in the file were skipped"
WAYS_TO_SAVE = [
    {},
    {"optimize": True},
    {"subsampling": 0, "quality": 95},
    {"progressive": True},
    {"progressive": True, "restart_marker_rows": 1},
    {"restart_marker_blocks": 2},
    {"restart_marker_rows": 1, "optimize": True},
]


def drawn(kind: str) -> Image.Image:
    """Pictures whose last pixels are easy, hard, or impossible to guess."""
    pixels = np.array(picture(61, 45))
    if kind == "dark":
        pixels[24:] = 0
        pixels[44, 20] = 255
    elif kind == "flat":
        pixels[24:] = 128
    return Image.fromarray(pixels).convert("L" if kind == "grey" else "RGB")


@pytest.mark.parametrize("kind", ["colour", "grey", "dark", "flat"])
@pytest.mark.parametrize("options", WAYS_TO_SAVE)
def test_a_jpeg_cut_anywhere_is_whole_or_refused(kind, options):
    data = encode(drawn(kind), "JPEG", **options)
    whole = np.asarray(read_photo(data))
    taken = set()
    for cut in [*range(1, 60), *range(60, len(data) - 300, 97)]:
        for fill in (b"", bytes(200), b"\xff" * 9):  # what a download that broke off leaves behind
            found = mend.mended(data[:-cut] + fill, 10**6)
            if found is not None:
                np.testing.assert_array_equal(np.asarray(read_photo(found.data)), whole)
                taken.add(cut)
    assert 1 in taken or kind == "flat"
    assert 2 in taken or kind in ("dark", "flat")
    assert max(taken, default=0) < 6
    assert mend.mended(data, 10**6) is None  # nothing to mend, and no end in the middle of a file counts


@pytest.mark.parametrize("at_least", [None, 20])
def test_a_jpeg_without_its_end_is_read_with_a_note_and_one_without_pixels_is_not(at_least):
    data = encode(picture(200, 150), "JPEG", exif=oriented(6))
    whole, broken = probe(data, at_least), probe(data[:-2], at_least)
    assert broken.size == whole.size == (150, 200)
    assert broken.image.tobytes() == whole.image.tobytes()
    assert (whole.note, broken.note) == (None, BROKEN_OFF)
    for fill in (b"", bytes(50), bytes(10**5), b"x" * 10**5):  # Pillow takes many zeros for pixels
        assert refusal(data[: len(data) // 2] + fill).reason == "truncated"
        assert probe(data[:-2] + fill.strip(b"x"), at_least).note == BROKEN_OFF
        assert probe(data + fill, at_least).note is None  # such as the film that phones append
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data  # has an end of its own
    assert probe(data[:2] + thumbnail + data[2:], at_least).note is None
    assert refusal(data[:2] + thumbnail + data[2 : len(data) // 2] + bytes(10**5)).reason == "truncated"


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_scans_that_are_missing_entirely_are_noticed(options):
    data = encode(picture(200, 150), "JPEG", **options)
    scans = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    assert (len(scans) > 1) == bool(options)
    for start in scans[1:]:
        assert refusal(data[:start]).reason == "truncated"
        tables = data.rindex(b"\xff\xc4", 0, start)  # the scan's own tables may stay
        assert refusal(data[:tables]).reason == "truncated"


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


NOISE = np.random.default_rng(0).integers(97, 122, 3_000_000, dtype=np.uint8).tobytes()
LARGE = {
    "tEXt": [chunk(b"tEXt", b"Comment\0" + NOISE)] * 30,
    "zTXt": [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(NOISE))],
    "iTXt": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(NOISE))],
    "bombs": [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8)))] * 20,
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", LARGE)
def test_a_png_with_large_texts_is_read_with_a_note_and_the_texts_are_not_inflated(kind, behind):
    data = encode(picture(), exif=oriented(6), icc_profile=rgb_profile(2.2, P3_PRIMARIES))
    whole, place = probe(data), data.rindex(b"IEND") - 4 if behind else 33
    data = data[:place] + b"".join(LARGE[kind]) + data[place:]
    tracemalloc.start()
    found, peak = probe(data), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (whole.note, found.note) == (None, TEXTS)
    assert found.size == (40, 64)
    assert found.image.tobytes() == whole.image.tobytes()  # turned, and by its profile
    assert peak < 2 * len(data) + 70 * 2**20  # Pillow stops at 64 MB of texts, of which a bomb has 100 MB each


@pytest.mark.parametrize(("size", "applied"), [(3 * 2**20, True), (mend.PROFILE_BYTES + 1, False)])
def test_a_large_profile_of_a_png_is_applied_and_a_bomb_is_ignored(size, applied):
    profile = rgb_profile(1.8, P3_PRIMARIES)
    large = profile.ljust(size, b"\0")
    large = len(large).to_bytes(4, "big") + large[4:]
    data = encode(picture())
    photo = probe(data[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(large)) + data[33:])
    expected = encode(picture(), icc_profile=profile) if applied else data
    assert photo.note == TEXTS
    assert photo.image.tobytes() == read_photo(expected).tobytes()
    assert read_photo(expected).tobytes() != read_photo(encode(picture())).tobytes() or not applied


def test_side_that_is_up_survives_a_large_text():
    rotation = b"\nexif\n      32\n" + (b"Exif\0\0" + oriented(6).tobytes()[6:]).hex().encode() + b"\n"
    data = encode(picture())
    texts = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(rotation)) + LARGE["zTXt"][0]
    assert probe(data[:33] + texts + data[33:]).size == (40, 64)


@pytest.mark.parametrize(
    ("size", "options", "at_least", "expected"),
    [
        ((400, 300), {}, 100, None),
        ((400, 300), {}, 151, "400 × 300, at most 50,000 are decoded; save it smaller, or read a fraction"),
        ((400, 300), {}, None, "400 × 300, at most 50,000 are decoded; save it smaller, or read a fraction"),
        ((600, 400), {}, 100, "600 × 400, at most 200,000 are read, even for a fraction; save it smaller"),
        ((400, 300), {"progressive": True, "subsampling": 2}, 100, None),
        ((400, 300), {"progressive": True, "subsampling": 0}, 100, "400 × 300, at most 200,000 are read, even"),
    ],
)
def test_the_limit_counts_decoded_pixels_of_a_jpeg(size, options, at_least, expected, monkeypatch):
    data, limits = encode(picture(*size), "JPEG", **options), Limits(max_pixels=50_000)
    for pillow in (10**9, 25_000, 1000):  # Pillow's own limit is twice this
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
        if expected is None and pillow > 1000:
            found = probe(data, at_least, limits)
            assert found.size == size and min(found.image.size) >= at_least
        else:
            error = refusal(data, lambda *args, **options: probe(data, at_least, limits))
            assert error.reason == "too many pixels"
            assert pillow == 1000 or error.detail.startswith(expected)


@pytest.mark.slow
def test_a_photo_of_108_megapixels_is_read_at_a_fraction():
    buffer = io.BytesIO()
    picture(12_000, 9000).save(buffer, "JPEG", quality=50)
    found = probe(buffer.getvalue(), 384)
    assert found.size == (12_000, 9000)
    assert found.image.size == (1500, 1125)
    assert refusal(buffer.getvalue()).detail == (
        "12000 × 9000, at most 80,000,000 are decoded; save it smaller, "
        "or read a fraction of it: read_photo(…, at_least=512)"
    )
