"""Folder -> the photos below it, and a count of everything else by its ending."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from carclf.data.photos import SUFFIXES
from carclf.errors import no_such, shortened

# How files begin that are photos whatever their ending says. "BM" alone would also begin a list of BMWs.
PHOTO = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftyp(avi|hei|hev|mif|msf)",
    re.DOTALL,
)


def _endings(text: str) -> frozenset[str]:
    return frozenset(f".{ending}" for ending in text.split())


RAW = _endings("""3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw
    x3f""")
PICTURES = _endings("ai dds eps exr hdr ico j2c j2k jp2 jpf jpx jxl pcx pdf psd svg svgz tga wmf xcf")
ARCHIVES = _endings("7z bz2 gz rar tar tgz xz zip")
# Endings that say what a file is, or that it is not complete. Only files of other endings are opened to look.
CLOSED = PICTURES | ARCHIVES
CLOSED |= _endings("""avi bak bin cfg crdownload csv db doc docx html htm ini ipynb js json jsonl lock log m2ts m4v mat
    md mkv mov mp3 mp4 mpeg mpg mts npy npz onnx parquet part partial pickle pkl pt pth py pyc rtf safetensors sh sqlite
    tfrecord tmp toml ts tsv txt webm wmv xls xlsx xml xmp yaml yml""")
NAMED = 8  # endings that a summary names


def list_photos(folder: str | os.PathLike) -> list[str]:
    """Sorted absolute paths of the photos below `folder`, with a warning about pictures that nothing here reads."""
    photos, others = list_files(folder)
    unread = {ending: n for ending, n in count_endings(others).items() if ending in RAW | PICTURES}
    if unread:
        warnings.warn(f"pictures of other formats are left out: {describe_endings(unread)}", stacklevel=2)
    return photos


def list_files(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Sorted absolute paths of the photos below `folder`, and those of all other files; dot files are in neither.

    A photo is a file with a photo's ending, or one that begins like a photo if its ending says nothing. Links to
    folders are followed, each folder is visited once, and a photo has its own path if that lies below `folder`.

    Raises
    ------
    NotADirectoryError, ValueError
        If there is no such folder, or no photo in it.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        wrong = f"{root} is not a folder" if root.exists() else no_such(folder)
        raise NotADirectoryError(f"{wrong}; give the folder that holds the photos")
    found: list[str] = []
    others: list[str] = []
    errors: list[OSError] = []
    for place, names in _places(root, errors):
        for name in names:
            if name.startswith("."):
                continue
            path, ending = os.path.join(place, name), os.path.splitext(name)[1].lower()  # noqa: PTH118, PTH122 - speed
            (found if ending in SUFFIXES or _begins_like_a_photo(path, ending) else others).append(path)
    # A cache index or split.csv could not hold these names; Latin-1 comes from old archives.
    foreign = [path for path in found if "\r" in path or path.encode("utf-8", "replace").decode("utf-8") != path]
    if foreign:
        message = f"{len(foreign)} names are not UTF-8 or hold a carriage return, such as {foreign[0]!r}"
        warnings.warn(f"{message}; they are left out, rename these files", stacklevel=3)
    if errors:
        message = f"{len(errors)} folders cannot be read, such as {errors[0].filename!r} ({errors[0].strerror})"
        warnings.warn(f"{message}; their photos are left out, ask for permission to read them", stacklevel=3)
    photos = sorted(set(found).difference(foreign))
    if not photos:
        only = f", only {describe_endings(count_endings(others))}" if others else ""
        raise ValueError(f"no photos in {root}{only}: put files such as 'Audi_A4_1.jpg' or 'Audi/1.jpg' there")
    return photos, others


def count_endings(paths: list[str]) -> dict[str, int]:
    """Ending, such as ".txt", or "" -> number of files, most first."""
    return dict(Counter(os.path.splitext(path)[1].lower() for path in paths).most_common())  # noqa: PTH122 - speed


def describe_endings(counts: Mapping[str, int]) -> str:
    """ "12 .txt, 3 .cr2 (raw: convert them to JPEG), 2 without ending"."""
    # Old names may have bytes that UTF-8 has not.
    texts = {ending: shortened(ending.encode("utf-8", "replace").decode(), 20) for ending in counts}
    words = [f"{n:,} {texts[ending] or 'without ending'}{_remedy(ending)}" for ending, n in counts.items()]
    rest = list(counts.values())[NAMED:]
    return ", ".join(words[:NAMED]) + f" and {sum(rest):,} of {len(rest):,} other endings" * bool(rest)


def _remedy(ending: str) -> str:
    if ending in RAW:
        return " (raw: convert them to JPEG)"
    if ending in PICTURES:
        return " (convert them to JPEG)"
    return " (unpack them: carclf download)" if ending in ARCHIVES else ""


def _places(root: Path, errors: list[OSError]) -> Iterator[tuple[str, list[str]]]:
    """Each folder at and below the root and the names of its files: first without links, then what links lead to."""
    # A link to where the root lies would take in everything beside it.
    seen = {_identity(str(folder)) for folder in Path(os.path.realpath(root)).parents}
    starts = [str(root)]
    while starts:
        links = []
        for start in starts:
            for place, folders, names in os.walk(start, onerror=errors.append):
                if (identity := _identity(place)) in seen:
                    folders.clear()
                    continue
                seen.add(identity)
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                below = (os.path.join(place, name) for name in folders)  # noqa: PTH118 - speed
                links += [path for path in below if os.path.islink(path)]  # noqa: PTH114
                yield place, names
        starts = links


def _identity(folder: str) -> tuple[int, int]:
    """What a folder is, whichever link leads to it."""
    facts = os.stat(folder)  # noqa: PTH116
    return facts.st_dev, facts.st_ino


def _begins_like_a_photo(path: str, ending: str) -> bool:
    if ending in CLOSED:
        return False
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a pipe would wait for ever
            return False
        with open(path, "rb") as file:  # noqa: PTH123
            start = file.read(16)
    except OSError:
        return False
    return PHOTO.match(start) is not None and not (ending in RAW and start[:1] in b"IM")  # raw files are TIFFs
