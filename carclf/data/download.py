"""A public set of photos, or an archive from anywhere -> a folder of photos.

An archive may be hostile. Whatever it says, only regular files with a photo's ending come out, under names that every
system can hold, below the folder and through no link. Everything else is set aside with its reason.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from tqdm.auto import tqdm

from carclf.brands import parse_brand
from carclf.data.photos import LIMITS, SUFFIXES, PhotoError, read_photo
from carclf.files import check_disk, replacing, writing

# An archive with more is refused before anything is written.
MAX_MEMBERS = 300_000
MAX_BYTES = 64 * 2**30
MAX_RATIO = 100  # bytes out for one byte in: photos hardly shrink, bombs a thousandfold
SETS = {"listing": ("prondeau/the-car-connection-picture-dataset", 64_467)}  # handle on Kaggle, expected photos
SAMPLE = 200  # photos decoded to see whether a set is sound; `carclf.scan` decodes all
PIECE = 2**16  # bytes read at a time, and the most that a header of a tar may take
DIRECTORY, NOT_REGULAR, OUTSIDE = "a directory", "not a regular file", "leads out of the folder"
LONGEST_PART = 240  # bytes of a name between slashes; most file systems hold 255, and ".tmp" is appended
LONGEST_PATH = 250 if os.name == "nt" else 1000  # bytes; Windows takes 260 characters, macOS 1,024 bytes
# What Windows takes for a device, and what it cannot hold or would cut off the end.
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
UNPORTABLE = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff<>:"|?*\\]|[. ](/|$)')  # surrogates: bytes of no known encoding
# PEP 706, since Python 3.10.12 and 3.11.4. It sees regular files only: its flaws (CVE-2025-4330, 4517) are in links.
DATA_FILTER = getattr(tarfile, "data_filter", lambda entry, folder: entry)


class Unpacked(NamedTuple):
    """What came out; paths are below the folder, with forward slashes."""

    written: list[str]
    present: list[str]  # were there already, with the same bytes
    set_aside: dict[str, list[str]]  # reason -> names as the archive has them
    bytes: int  # written
    free: int  # bytes of disk before

    def __str__(self) -> str:
        aside = ", ".join(f"{reason} ({len(n):,}, such as {n[0]!r})" for reason, n in self.set_aside.items())
        return (
            f"{len(self.written):,} photos written ({self.bytes / 1e9:.2f} GB; {self.free / 1e9:.2f} GB were free), "
            f"{len(self.present):,} already there" + f"\nset aside: {aside}" * bool(aside)
        )


class _Member(NamedTuple):
    """One entry of a source; nothing of it has been unpacked or believed yet."""

    name: str
    size: int  # bytes, as the header claims
    open: Callable[[], Any]  # a binary file
    problem: str | None  # why it cannot come out, whatever its name


class _Refused(ValueError):
    """Why one member, or the whole archive, does not come out."""


def unpack(source: str | os.PathLike, folder: str | os.PathLike) -> Unpacked:
    """Extract the photos of an untrusted zip, tar, tar.gz or folder; existing files are never overwritten.

    A photo is renamed into place once complete, so an interruption leaves no half photo; a second call brings the rest.

    Raises
    ------
    ValueError
        If the source is no archive or exceeds the limits; nothing is written then.
    OSError
        If the source does not exist, or the folder cannot be written or has too little disk.
    """
    root = Path(os.path.realpath(folder))
    aside: defaultdict[str, list[str]] = defaultdict(list)
    written: list[str] = []
    present: list[str] = []
    with ExitStack() as stack:
        plan = _plan(Path(source), root, aside, stack)
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            free = check_disk(root, sum(member.size for name, member in plan.items() if not (root / name).exists()))
        for name, member in tqdm(plan.items(), "unpack", unit="photo", leave=False):
            try:
                (written if _extract(member, root / name) else present).append(name)
            except _Refused as reason:
                aside[str(reason)].append(member.name)
    return Unpacked(written, present, dict(aside), sum(plan[name].size for name in written), free)


def _plan(source: Path, root: Path, aside: dict[str, list[str]], stack: ExitStack) -> dict[str, _Member]:
    """Path below the folder -> member, for all that may come out. An archive stays open as long as the stack."""
    if source.is_dir():
        most, members = MAX_BYTES, _of_folder(source)
    elif source.is_file():
        most = min(MAX_BYTES, MAX_RATIO * source.stat().st_size + 2**20)  # a megabyte is always harmless
        members = _of_archive(stack.enter_context(source.open("rb")), most)
    else:  # a pipe or a device would hang
        raise FileNotFoundError(f"there is no file {source}; give a zip, tar, tar.gz or folder")
    plan: dict[str, _Member] = {}
    try:
        for member in members:
            # './a.jpg', 'a//b.jpg' and, from Windows, 'a\\b.jpg' are common and harmless.
            name = PurePosixPath(member.name.replace("\\", "/")).as_posix()
            problem = member.problem or _problem(name, member.size, root)
            if problem or name in plan:
                aside[problem or "another member has its name"].append(member.name)
            else:
                plan[name] = member
        # Claims only, but no member gives more bytes than it claims: `_pieces` checks.
        if (claimed := sum(member.size for member in plan.values())) > most:
            raise _Refused(f"expands to {claimed:,} bytes, more than the {most:,} allowed")
    except _Refused as reason:
        raise ValueError(f"{source} {reason}; unpack it yourself if you trust it") from reason
    aside.pop(DIRECTORY, None)
    return plan


def _of_folder(folder: Path) -> Iterator[_Member]:
    for path in sorted(folder.rglob("*")):  # follows no links
        facts = path.lstat()
        kind = {stat.S_IFREG: None, stat.S_IFDIR: DIRECTORY}.get(stat.S_IFMT(facts.st_mode), NOT_REGULAR)
        yield _Member(path.relative_to(folder).as_posix(), facts.st_size, partial(path.open, "rb"), kind)


def _of_archive(file: BinaryIO, most: int) -> Iterator[_Member]:
    magic = file.read(2)  # not the ending, which may lie; and a tar that ends in a zip would pass for a zip
    file.seek(0)
    try:
        if magic == b"PK":
            members = _of_zip(zipfile.ZipFile(file))
        else:
            members = _of_tar(_Guarded(gzip.GzipFile(fileobj=file) if magic == b"\x1f\x8b" else file, most))
        for number, member in enumerate(members, 1):
            if number > MAX_MEMBERS:
                raise _Refused(f"has more than {MAX_MEMBERS:,} members")
            yield member
    except _Refused:
        raise
    except Exception as error:  # parsers of hostile bytes raise whatever they like
        raise ValueError(f"{file.name} is not an intact zip, tar or tar.gz ({error}); download it again") from error


def _of_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in archive.infolist():
        problem = DIRECTORY if entry.orig_filename.endswith("/") else None
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = NOT_REGULAR
        elif entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "encrypted, or neither stored nor deflated"  # zipfile bounds the memory of these two only
        # orig_filename: before zipfile cuts it at a NUL
        yield _Member(entry.orig_filename, entry.file_size, partial(archive.open, entry), problem)


def _of_tar(file: _Guarded) -> Iterator[_Member]:
    archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - it owns nothing to close
    for entry in archive:
        archive.pax_headers, entry.pax_headers = {}, {}  # or each member keeps a copy of all global ones
        kind = DIRECTORY if entry.isdir() else None if entry.isreg() and not entry.issparse() else NOT_REGULAR
        yield _Member(entry.name, entry.size, partial(archive.extractfile, entry), kind)
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
        raise tarfile.ReadError("no header where one should be")


class _Guarded(io.RawIOBase):
    """A tar that is read only so far: tarfile holds headers of any size in memory, and inflates all that it skips."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, most: int):
        self.file, self.most = file, most

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= PIECE:
            raise tarfile.ReadError(f"a header claims {count:,} bytes, more than {PIECE:,} or fewer than none")
        return self.file.read(count)

    def seek(self, place: int, whence: int = 0) -> int:
        if place > self.most:
            raise _Refused(f"expands to more than {self.most:,} bytes")
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()


def _problem(name: str, size: int, root: Path) -> str | None:
    parts = name.split("/")
    if ".." in parts or re.match(r"[A-Za-z]:|/", name):
        return OUTSIDE
    if any(part.startswith(".") for part in parts):
        return "hidden"  # `scan` leaves these out
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        return "not a photo's extension"
    if (
        UNPORTABLE.search(name)
        or any(RESERVED.fullmatch(part) or len(part.encode()) > LONGEST_PART for part in parts)
        or len(os.fsencode(root / name)) > LONGEST_PATH
    ):
        return "a file name that some systems cannot store"
    try:
        DATA_FILTER(tarfile.TarInfo(name), str(root))  # a second opinion
    except (tarfile.FilterError, OSError):
        return OUTSIDE
    return f"more than {LIMITS.max_bytes:,} bytes" if size > LIMITS.max_bytes else None  # more than `read_photo` takes


def _extract(member: _Member, target: Path) -> bool:
    """Write one photo; False if it is there already."""
    if os.path.normcase(os.path.realpath(target)) != os.path.normcase(target):
        raise _Refused("a link in the folder points elsewhere")
    with writing(target):
        nearest = next(place for place in (target, *target.parents) if place.exists())
        if nearest == target and target.is_file() and _equal(member, target):
            return False
        if nearest == target or not nearest.is_dir():
            raise _Refused("the folder has another file of this name")
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        part.unlink(missing_ok=True)  # left by a killed run
        with part.open("xb") as file:  # x: through no link that stands there
            file.writelines(_pieces(member))
    return True


def _equal(member: _Member, target: Path) -> bool:
    with target.open("rb") as file:
        return target.stat().st_size == member.size and all(p == file.read(len(p)) for p in _pieces(member))


def _pieces(member: _Member) -> Iterator[bytes]:
    """The member's bytes, exactly as many as its header claims."""
    left = member.size
    try:
        with member.open() as file:
            while left >= 0 and (piece := file.read(PIECE)):
                left -= len(piece)
                yield piece
    except Exception as error:  # as in `_of_archive`; what the caller raises does not come in here
        raise _Refused("damaged or unreadable") from error
    if left:
        raise _Refused("its size differs from its header")


class Downloaded(NamedTuple):
    """What `download` brought, and what a look through it found."""

    unpacked: Unpacked
    photos: int
    branded: int  # photos whose name carries a brand
    sampled: int  # photos that were decoded, evenly spread over the names
    broken: dict[str, str]  # those of them that cannot be used -> why
    copy: Path | None  # kagglehub's own copy

    def __str__(self) -> str:
        broken = "".join(f"\n  {name}: {problem}" for name, problem in self.broken.items())
        copy = f"\nkagglehub keeps its copy in {self.copy}; it may be deleted" if self.copy else ""
        return (
            f"{self.unpacked}\n{self.photos:,} photos, {self.branded:,} with a brand in the name; "
            f"{self.sampled - len(self.broken):,} of {self.sampled:,} sampled photos decode{broken}{copy}"
        )


def download(source: str | os.PathLike = "listing", folder: str | os.PathLike = "images") -> Downloaded:
    """Bring a set of photos into a folder, and check whether it is what it should be.

    Parameters
    ----------
    source : "listing", or the path of an archive or folder that you downloaded yourself
        "listing" is The Car Connection Picture Dataset; kagglehub fetches it into its own cache and verifies it.
    folder : where the photos go; existing files stay as they are, and a second call brings what is missing

    Raises
    ------
    OSError
        If kagglehub, network, credentials or disk space are missing.
    ValueError
        If the source is unknown or holds no photo, or if a known set is off by more than 5 %: in the number of photos,
        in names without a brand, or in broken photos of the sample.
    """
    known = SETS.get(os.fspath(source))
    if known is None and not Path(source).exists():
        raise ValueError(f"source {os.fspath(source)!r} must be {', '.join(map(repr, SETS))} or an archive's path")
    place = _fetch(known[0]) if known else Path(source)
    unpacked = unpack(place, folder)
    names = sorted(unpacked.written + unpacked.present)
    if not names:
        raise ValueError(f"no photo came out of {place}: {unpacked}".replace("\n", "; "))
    branded = sum(parse_brand(PurePosixPath(name).name) is not None for name in names)
    sample, broken = names[:: -(-len(names) // SAMPLE)], {}
    for name in tqdm(sample, "check", unit="photo", leave=False):
        try:
            read_photo(Path(folder, name))
        except PhotoError as error:
            broken[name] = str(error)
    off = max(1 - branded / len(names), len(broken) / len(sample))
    if known and max(off, abs(len(names) / known[1] - 1)) > 0.05:  # a set may change, but not that much
        raise ValueError(
            f"{folder} has {len(names):,} photos of this set where about {known[1]:,} are expected, {branded:,} "
            f"with a brand in the name, {len(broken)} of {len(sample)} sampled ones broken; delete {place} and retry"
        )
    return Downloaded(unpacked, len(names), branded, len(sample), broken, place if known else None)


def _fetch(handle: str) -> Path:
    """The folder in which kagglehub has unpacked a set."""
    page = f"https://www.kaggle.com/datasets/{handle}"
    try:
        import kagglehub

        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # of a dozen kinds, most of them plain Exceptions
        why = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = (
            f"check the network, sign in at {page} and accept the terms if it asks, create a token at "
            "https://www.kaggle.com/settings/api and save it as ~/.kaggle/access_token, then try again"
        )
        if isinstance(error, ImportError):
            remedy = 'pip install "carclf[download]", or pip install kagglehub'
        by_hand = f"download the zip from {page} with a browser, then: carclf download path/to/archive.zip"
        raise OSError(f"{handle} was not downloaded ({why}); {remedy}; or {by_hand}") from error
