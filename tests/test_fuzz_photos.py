"""2,000 broken files: each gives pixels or a PhotoError, quickly, in little memory, and Pillow stays as it was.

They are read in a process of their own, so that its memory can be measured and a crash or a hang ends it alone:
`python -W error tests/test_fuzz_photos.py [SEED [FILES]]` prints JSON of what came of them.
"""

import faulthandler
import io
import json
import random
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageCms, ImageFile

from carclf.data.photos import FORMATS, PhotoError, probe, read_photo

FILES = 2000
SECONDS = 2  # of the processor for one file, so that a busy machine changes nothing
PATIENCE = 60  # seconds until a file that hangs without computing is given up
BYTES = 10**9
MUTATIONS = ("flip", "flip", "huge", "huge", "cut", "swap", "header", "join")
NUMBERS = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\xff\xff", b"\x7f\xff", b"\0\0\xff\xff", b"\0\0")


def originals() -> dict[str, bytes]:
    """Small photos of every kind that is read, by name; the first word is the format."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72))
    palette, inks = rgb.quantize(32), rgb.convert("CMYK")
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    profile = {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    exif = {"exif": Image.Exif()}
    exif["exif"][0x0112] = 6
    kinds = {
        "JPEG": (rgb, profile),
        "JPEG progressive": (rgb, {"progressive": True, **exif}),
        "JPEG CMYK": (inks, {}),
        "JPEG restarts": (rgb, {"restart_marker_blocks": 3, "optimize": True}),
        "PNG": (rgb, profile),
        "PNG palette": (palette, {"transparency": 3, **exif}),
        "PNG 16 bit": (deep, {}),
        "PNG animated": (rgb, {"save_all": True, "append_images": [rgb.rotate(9)]}),
        "WEBP": (rgb, exif),
        "WEBP lossless": (rgb.convert("RGBA"), {"lossless": True}),
        "GIF": (palette, {"save_all": True, "append_images": [palette.rotate(9)]}),
        "BMP": (rgb, {}),
        "PPM": (rgb, {}),
        "TIFF": (rgb, {"compression": "tiff_lzw", **exif}),
        "TIFF 16 bit": (deep, {"compression": "tiff_adobe_deflate"}),
        "TIFF CMYK": (inks, {}),
        "AVIF": (rgb, exif),
        "HEIF": (rgb, exif),
    }
    files = {}
    for name, (image, options) in kinds.items():
        if (kind := name.split()[0]) in FORMATS:
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            files[name] = buffer.getvalue()
    return files


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Flipped bits, huge lengths, a cut, swapped blocks, another file's header, another file's end, or several."""
    changed = bytearray(data)

    def place(room: int = 0) -> int:
        """Mostly near the header, where decoders believe what they read."""
        return rng.randrange(max(1, min(len(changed) - room, rng.choice([40, 400, len(changed), len(changed)]))))

    for how in rng.choices(MUTATIONS, k=rng.choice([1, 1, 1, 2, 4])):
        if how == "flip":
            for _ in range(rng.choice([1, 3, 20])):
                changed[place()] ^= 1 << rng.randrange(8)
        elif how == "huge":
            number = rng.choice(NUMBERS)
            start = place(len(number))
            changed[start : start + len(number)] = number if rng.random() < 0.5 else number[::-1]
        elif how == "cut":
            del changed[max(1, place()) :]
        elif how == "swap":
            a, b, c = sorted(place() for _ in range(3))
            changed[a:c] = changed[b:c] + changed[a:b]
        elif how == "header":
            length = rng.choice([4, 12, 40, 200])
            changed[:length] = other[:length]
        else:
            changed += bytes(999) if rng.random() < 0.1 else other[place() if rng.random() < 0.5 else 0 :]
    if rng.random() < 0.5 and changed.startswith(b"\x89PNG"):
        reseal(changed)
    return bytes(changed)


def reseal(data: bytearray) -> None:
    """Correct the checksums of a PNG; otherwise nothing broken would reach the decoder."""
    start = 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        data[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4


def peak_bytes() -> int:
    """The most memory this process has held."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # `getrusage` would count the parent's memory in
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def state() -> list:
    """What a reader could change for everybody else in the process."""
    pillow = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK, [*Image.ID], [*Image.OPEN]
    return [*pillow, [*warnings.filters], warnings.showwarning]


def outcome(data: bytes) -> str:
    """ "read", or the reason why not; both ways of reading agree on it."""
    answers = []
    for way in (lambda data: read_photo(data).size, lambda data: probe(data, 1)[0]):
        try:
            answers.append(("read", way(data)))
        except PhotoError as error:
            assert error.reason in PhotoError.REASONS
            answers.append((error.reason, None))
    assert answers[0] == answers[1], answers
    return answers[0][0]


def read_all(seed: int = 0, number: int = FILES) -> dict:
    """What came of each kind's broken files, the slowest file's seconds, and the bytes of memory it all took."""
    rng, files = random.Random(seed), originals()
    kinds, outcomes, slowest = [*files], {kind: Counter() for kind in files}, 0.0
    for data in files.values():  # loads all decoders: their code is none of the broken files' memory
        assert outcome(data) == "read"
    before, memory = state(), peak_bytes()
    for i in range(number):
        kind = kinds[i % len(kinds)]
        data = mutate(files[kind], files[rng.choice(kinds)], rng)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        started = time.process_time()
        try:
            outcomes[kind][outcome(data)] += 1
        except BaseException as error:
            raise AssertionError(f"broken {kind}, number {i} of seed {seed}") from error
        slowest = max(slowest, time.process_time() - started)
    faulthandler.cancel_dump_traceback_later()
    assert state() == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    return {"outcomes": outcomes, "slowest": slowest, "memory": peak_bytes() - memory}


def test_broken_files_give_pixels_or_photo_error_and_change_nothing():
    command = [sys.executable, "-W", "error", __file__]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert sum(sum(of_kind.values()) for of_kind in found["outcomes"].values()) == FILES
    assert len(found["outcomes"]) >= 14
    for kind, of_kind in found["outcomes"].items():  # else the mutations would be too tame or too wild to test it
        assert 0 < of_kind["read"] < sum(of_kind.values()), kind
    assert found["slowest"] < SECONDS
    assert found["memory"] < BYTES


if __name__ == "__main__":
    print(json.dumps(read_all(*map(int, sys.argv[1:]))))
