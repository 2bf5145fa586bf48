"""Files whose pixels are whole although something beside them is not -> bytes that can be decoded."""

from __future__ import annotations

import hashlib
import io
import random
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

PROFILE_BYTES = 16 * 2**20  # of a colour profile of a PNG; larger ones are not inflated
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # not a stuffed byte, fill or a restart
RESTART = re.compile(rb"\xff([\xd0-\xd7])")
END = b"\xff\xd9"
SCANS = 64  # a progressive JPEG has about ten
NOISE = random.Random(0)
FILLS = [b"\xff\0" * 32, b"\xaa" * 64, b"\x55" * 64]
FILLS += [bytes(NOISE.randrange(255) for _ in range(64)) for _ in range(2)]


class Mended(NamedTuple):
    """What can be decoded instead of a file."""

    data: bytes
    note: str  # what is wrong with the file
    profile: bytes | None = None  # the colour profile that `data` lacks


def mended(data: bytes, max_pixels: int) -> Mended | None:
    """What can be decoded instead of a JPEG that lacks its end or a PNG with large texts; None if it is neither.

    It asks for up to eight decodings, so it is for files that could not be read.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _without_texts(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _with_end(data, max_pixels)
    return None


def _without_texts(data: bytes) -> Mended | None:
    """A PNG without its texts and profile, which Pillow refuses above a megabyte; no text is inflated."""
    kept, place, profile, dropped = [data[:8]], 8, None, False
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, content = data[place + 4 : place + 8], data[place + 8 : end - 4]
        if kind == b"iCCP":
            profile, dropped = _inflated(content), True
        elif kind in TEXTS and not content.startswith(b"Raw profile type exif\0"):  # may say which side is up
            dropped = True
        else:
            kept.append(data[place:end])
        place = end
    return Mended(b"".join(kept), "large texts in the file were skipped", profile) if dropped else None


def _inflated(content: bytes) -> bytes | None:
    """The profile of a chunk iCCP; None if it is broken or too large."""
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(content[content.index(b"\0") + 2 :], PROFILE_BYTES)
    except (ValueError, zlib.error):
        return None
    return profile if inflate.eof else None


def _with_end(data: bytes, max_pixels: int) -> Mended | None:
    """A JPEG with an end marker, if all its pixels are there.

    libjpeg fills up what is missing with zero bits and goes on. So other bits are put behind the file, several kinds:
    if the picture depends on them, pixels are missing. And it must depend on the last bytes of the file, or those are
    not its pixels but a fill, such as the zeros of a download that broke off.
    """
    body = data.rstrip(b"\0")
    if body.endswith(b"\xff"):  # half of the end marker, or with a zero behind it a byte of the picture
        body = body + b"\0" if len(data) > len(body) else body.rstrip(b"\xff")
    try:
        scan = _last_scan(body)
        with Image.open(io.BytesIO(body), formats=["JPEG"]) as image:
            if scan is None or image.width * image.height > max_pixels:
                return None
        whole, tails = _pixels(body + END), [_tail(fill, scan) for fill in FILLS]
        if any(_pixels(body + tail) != whole for tail in tails):
            return None
        if all(_pixels(body[:-8] + tail) == whole for tail in tails[:2]):
            return None
    except Exception:  # decoders of hostile bytes raise whatever they like
        return None
    return Mended(body + END, "the file breaks off, but all pixels are there")


def _pixels(data: bytes) -> bytes:
    """Digest of the decoded pixels."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        digest, (width, height) = hashlib.blake2b(), image.size
        for top in range(0, height, 256):  # strips take less memory than a copy of the picture
            digest.update(image.crop((0, top, width, min(top + 256, height))).tobytes())
        return digest.digest()


def breaks_off(data: bytes) -> bool:
    """Whether a JPEG has no end, although Pillow may read it: it takes zeros for pixels."""
    near = data[-(2**16) :]
    if not data.startswith(b"\xff\xd8\xff") or near.rfind(END) > near.rfind(b"\xff\xda"):
        return False
    return all(code != END[1] for code, *_ in _segments(data))  # phones append films


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, content and end of each segment of a JPEG; the pixels of a scan lie behind its segment."""
    place = 2
    while marker := MARKER.search(data, place):
        start = marker.end()
        place = start + int.from_bytes(data[start : start + 2], "big")
        yield marker[1][0], data[start + 2 : place], place


def _last_scan(data: bytes) -> bytes | None:
    """The last scan of a JPEG; None if the scans lack any of the 64 coefficients of a component at full precision."""
    left: dict[int, set[int]] = {}
    place, progressive, scans = 0, False, 0
    for code, content, end in _segments(data):
        if code == END[1] or scans > SCANS:
            return None
        if code in range(0xC0, 0xD0) and code not in (0xC4, 0xC8, 0xCC):  # the frame
            progressive = code in (0xC2, 0xCA)
            left = {content[6 + 3 * i]: {*range(64)} for i in range(content[5])}
        elif code == 0xDA:
            place, scans = end, scans + 1
            first, last, precision = content[-3:]
            done = {*range(64)} if not progressive else {*range(first, last + 1)} if precision % 16 == 0 else set()
            for i in range(content[0]):
                left[content[1 + 2 * i]] -= done
    return data[place:] if scans and not any(left.values()) else None


def _tail(fill: bytes, scan: bytes) -> bytes:
    """What may follow a broken scan, also where it breaks off at a restart marker."""
    restarts = RESTART.findall(scan)
    number = restarts[-1][0] + 1 if restarts else 0
    return fill + b"".join(bytes([0xFF, 0xD0 + (number + i) % 8]) + fill for i in range(8)) + END
