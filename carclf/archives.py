"""What is in a zip, tar or folder that nobody need trust: members, whose bytes are read one piece after the other."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from carclf.photos import LIMITS

PIECE = 2**20  # bytes held in memory at a time, and the most that the headers of one member of a tar may take
NO_FILE = "a link, device or pipe"


class ArchiveLimits(NamedTuple):
    """What an archive may hold; one that claims more is refused before anything is written."""

    members: int = 300_000
    photo: int = LIMITS.max_bytes  # bytes of one; `read_photo` takes no larger, so a larger one is set aside
    total: int = 64 * 2**30  # bytes of all
    ratio: int = 100  # bytes out for one byte in: photos hardly shrink, bombs a thousandfold


ARCHIVE_LIMITS = ArchiveLimits()


class Member(NamedTuple):
    """One entry of an archive; nothing of it has been unpacked or believed yet."""

    name: str
    size: int  # bytes, as the header claims
    open: Callable[[], BinaryIO]
    problem: str | None  # why it cannot come out, whatever its name


class SetAside(ValueError):
    """One member does not come out; the others do."""


class _TooMuch(ValueError):
    """The archive exceeds the limits."""


@contextmanager
def open_members(source: Path, limits: ArchiveLimits) -> Iterator[list[Member]]:
    """All files of a source; while the context is open they can be opened."""
    if source.is_dir():
        yield _of_folder(source)
        return
    if not source.is_file():  # a pipe or a device would hang
        raise FileNotFoundError(f"there is no file {source}; give a zip, tar, tar.gz or folder")
    with ExitStack() as stack:
        with source.open("rb") as file:
            magic = file.read(2)  # not the ending, which may lie; and a tar that ends in a zip would pass for a zip
        try:
            if magic == b"PK":
                members = _of_zip(stack.enter_context(zipfile.ZipFile(source)), limits)
            else:
                opener = gzip.open if magic == b"\x1f\x8b" else open
                members = _of_tar(stack.enter_context(opener(source, "rb")), limits, most_bytes(source, limits))
        except _TooMuch as error:
            raise ValueError(f"{source} {error}; unpack it yourself if you trust it") from error
        except Exception as error:  # parsers of hostile bytes raise whatever they like
            raise ValueError(f"{source} is no whole zip, tar or tar.gz ({error}); download it again") from error
        yield members


def _of_folder(folder: Path) -> list[Member]:
    members = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]  # os.walk does not follow them
        for path in (Path(place, name) for name in sorted(names + links)):
            facts = path.lstat()
            problem = None if stat.S_ISREG(facts.st_mode) else NO_FILE
            name = path.relative_to(folder).as_posix()
            members.append(Member(name, facts.st_size, lambda path=path: path.open("rb"), problem))
    return members


def _of_zip(archive: zipfile.ZipFile, limits: ArchiveLimits) -> list[Member]:
    if len(archive.infolist()) > limits.members:
        raise _TooMuch(f"has more than {limits.members:,} members")
    shared, members = _shared(archive), []
    for entry in archive.infolist():
        problem = None
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = NO_FILE
        elif entry.flag_bits & 1:
            problem = "encrypted"
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "neither stored nor deflated"  # of the others zipfile decodes a whole block into memory
        elif entry.header_offset in shared:
            problem = "shares its bytes with another entry"
        if not entry.filename:
            problem = "no name"
        if problem or not entry.is_dir():  # orig_filename: before zipfile cuts it at a NUL
            members.append(Member(entry.orig_filename, entry.file_size, lambda e=entry: archive.open(e), problem))
    return members


def _shared(archive: zipfile.ZipFile) -> set[int]:
    """Offsets of the entries that reach into another one, as those of bombs do that need no nesting."""
    shared, end, holder = set(), 0, None
    for entry in sorted(archive.infolist(), key=lambda e: e.header_offset):
        start = entry.header_offset
        reach = start + 30 + entry.compress_size  # 30: the fixed part of a local header
        if start < end:
            shared |= {start, holder}
        if reach > end:
            end, holder = reach, start
    return shared


class _Metered:
    """A tar that is read only as far as allowed: tarfile holds a header in memory, however large it claims to be."""

    def __init__(self, file: BinaryIO, most: int):
        self.file, self.most, self.allowed, self.tell = file, most, PIECE, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.allowed:
            raise tarfile.ReadError(f"a header claims more than {PIECE:,} bytes, or fewer than none")
        self.allowed -= count
        return self.file.read(count)

    def seek(self, place: int) -> int:
        if place > self.most:  # to pass over a member is to decompress it
            raise _TooMuch(f"expands to more than {self.most:,} bytes")
        return self.file.seek(place)


def _of_tar(file: BinaryIO, limits: ArchiveLimits, most: int) -> list[Member]:
    metered = _Metered(file, most)
    archive = tarfile.open(fileobj=metered, mode="r:")  # noqa: SIM115 - it owns nothing to close

    def opened(entry: tarfile.TarInfo) -> BinaryIO:
        metered.allowed = entry.size + PIECE
        return archive.extractfile(entry)

    members, end = [], 0
    try:
        for entry in archive:
            if archive.offset <= end:  # or a negative size would go round for ever
                raise tarfile.ReadError("a header claims a negative size")
            end, metered.allowed = archive.offset, PIECE
            if len(archive.members) > limits.members:
                raise _TooMuch(f"has more than {limits.members:,} members")
            problem = "sparse" if entry.issparse() else None if entry.isreg() else NO_FILE
            if not entry.isdir():
                members.append(Member(entry.name, entry.size, lambda e=entry: opened(e), problem))
        metered.seek(archive.offset)
        if metered.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
            raise tarfile.ReadError("no header where one should be")
    except _TooMuch:
        raise
    except Exception as error:  # as in open_members; what came before is good
        members.append(Member(f"all after {len(members):,} files", 0, None, f"the archive is damaged ({error})"))
    return members


def most_bytes(source: Path, limits: ArchiveLimits) -> int:
    """Bytes that an archive of this size may expand to; a megabyte harms nobody."""
    return min(limits.total, limits.ratio * source.stat().st_size + 2**20)


def pieces(member: Member) -> Iterator[bytes]:
    """The member's bytes, neither more nor fewer than its header claims."""
    left = member.size
    try:
        with member.open() as file:
            while left >= 0 and (piece := file.read(PIECE)):
                left -= len(piece)
                yield piece
    except Exception as error:  # as in open_members; what the caller raises does not come in here
        raise SetAside("damaged or unreadable") from error
    if left:
        raise SetAside("not of the size that its header claims")
