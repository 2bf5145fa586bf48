"""Members of an archive -> photos in a folder, unpacked as if an enemy had packed them.

Whatever an archive says, only regular files with a photo's ending come out, each under a name that every system can
hold, below the folder, whole or not at all. All else is set aside with its reason, and nothing is overwritten.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm.auto import tqdm

from carclf.archives import ARCHIVE_LIMITS, ArchiveLimits, Member, SetAside, most_bytes, open_members, pieces
from carclf.files import SPARE, replacing, writing
from carclf.photos import SUFFIXES

LONGEST_PART = 240  # bytes of a name between slashes; most file systems hold 255, and ".tmp" comes behind
LONGEST_PATH = 250 if os.name == "nt" else 1000  # bytes; Windows takes 260 characters, macOS 1,024 bytes
# What Windows takes for a device, and what it cannot hold or would cut off the end.
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
UNPORTABLE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]|[. ](/|$)')


class Unpacked(NamedTuple):
    """What came out; paths are below the folder, with forward slashes."""

    written: list[str]
    present: list[str]  # were there already, with the same bytes
    set_aside: dict[str, list[str]]  # reason -> names as the archive has them
    bytes: int  # written
    free: int  # bytes of disk before

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:.2f} GB; {self.free / 1e9:.2f} GB were free"
        aside = (f"{reason} ({len(n):,}, such as {n[0]!r})" for reason, n in self.set_aside.items())
        return f"{len(self.written):,} photos written ({size}), {len(self.present):,} already there" + (
            "\nset aside: " + ", ".join(aside) if self.set_aside else ""
        )


def unpack(source: str | os.PathLike, folder: str | os.PathLike, limits: ArchiveLimits = ARCHIVE_LIMITS) -> Unpacked:
    """Bring the photos of an archive that nobody need trust into a folder.

    Set aside, each with its reason: names that lead out of the folder or that some system cannot hold; links, devices,
    hidden files, other endings; what is encrypted, damaged, sparse or too large; zip entries that share bytes; second
    files of one name (letter case does not tell names apart); photos whose name another file in the folder has.
    An archive in the archive has no photo's ending, so it stays packed.

    Every photo is written under another name and then renamed, so a stop leaves no half photo. Called again, it leaves
    what is there and brings the rest.

    Parameters
    ----------
    source : a zip, tar, tar.gz, or folder
    folder : is made if need be; nothing in it is overwritten, nothing is written outside
    limits : of the whole archive and of one photo

    Raises
    ------
    ValueError
        For what is no archive or exceeds the limits; nothing is written then.
    OSError
        Where there is no such file, or the folder cannot be written or has too little disk.
    """
    source, folder = Path(source), Path(folder).absolute()
    aside, sizes, present = defaultdict(list), {}, []
    with open_members(source, limits) as members:
        plan = _plan(members, folder, limits, aside)
        # Claims only, but no member gives more bytes than it claims (pieces).
        _check_total(source, sum(member.size for member in plan.values()), limits)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        needed = sum(member.size for name, member in plan.items() if not (folder / name).exists())
        free = _check_disk(folder, needed)
        title = f"unpack {needed / 1e6:,.0f} MB, {free / 1e9:,.1f} GB free"
        for name, member in tqdm(plan.items(), title, unit="photo", leave=False):
            try:
                if _bring(member, folder / name):
                    sizes[name] = member.size
                else:
                    present.append(name)
            except SetAside as reason:
                aside[str(reason)].append(member.name)
    return Unpacked([*sizes], present, dict(aside), sum(sizes.values()), free)


def _plan(members: list[Member], folder: Path, limits: ArchiveLimits, aside: dict[str, list[str]]) -> dict[str, Member]:
    """Path below the folder -> member, for all that may come out; the others go to `aside`."""
    plan, taken, root = {}, {}, Path(os.path.realpath(folder))
    for member in members:
        # './a.jpg', 'a//b.jpg' and, from Windows, 'a\\b.jpg' are common and harmless.
        name = PurePosixPath(member.name.replace("\\", "/")).as_posix()
        problem = (
            member.problem
            or _name_problem(name, root)
            or (f"more than {limits.photo:,} bytes" if member.size > limits.photo else None)
            or _claim(name, taken)
            or _disk_problem(root / name)
        )
        if problem is None:
            plan[name] = member
        else:
            aside[problem].append(member.name)
    return plan


def _name_problem(name: str, root: Path) -> str | None:
    parts = name.split("/")
    if ".." in parts or re.match(r"[A-Za-z]:|[/\\]", name):
        return "leads out of the folder"
    if any(part.startswith(".") for part in parts):
        return "hidden"  # `scan` leaves these out
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        return "no photo's ending"
    if UNPORTABLE.search(name) or any(RESERVED.fullmatch(part) for part in parts):
        return "a name that not every system can hold"
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return "too long a name" if longest > LONGEST_PART or len(os.fsencode(root / name)) > LONGEST_PATH else None


def _claim(name: str, taken: dict[str, str]) -> str | None:
    """Take a name, unless another member has it where letter case and the way to write an accent do not count."""
    parts = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).split("/")
    *above, own = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    if own in taken or any(taken.get(place) == "photo" for place in above):
        return "another member has its name"
    taken.update(dict.fromkeys(above, "folder"))
    taken[own] = "photo"
    return None


def _disk_problem(target: Path) -> str | None:
    """What stands in the way in the folder; it is the user's and may hold links to elsewhere."""
    place = target.parent
    if os.path.normcase(os.path.realpath(place)) != os.path.normcase(place):
        return "a link in the folder leads it elsewhere"
    if target.is_symlink() or (target.exists() and not target.is_file()):
        return "a link or folder has its name"
    while not place.exists():
        place = place.parent
    return None if place.is_dir() else "a file stands where its folder should be"


def _check_total(source: Path, claimed: int, limits: ArchiveLimits) -> None:
    most = limits.total if source.is_dir() else most_bytes(source, limits)
    if claimed > most:
        message = f"{source} expands to {claimed:,} bytes, more than the {most:,} allowed"
        raise ValueError(f"{message}; unpack it yourself if you trust it")


def _check_disk(folder: Path, needed: int) -> int:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        message = f"{folder} needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise OSError(f"{message}; free some disk or choose another folder")
    return free


def _bring(member: Member, target: Path) -> bool:
    """Write one photo; False where it is there already."""
    with writing(target):
        if target.exists():
            if not _equal(member, target):
                raise SetAside("another file in the folder has its name")
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        part.unlink(missing_ok=True)  # a killed run's
        try:
            with part.open("xb") as file:  # x: through no link that stands there
                for piece in pieces(member):
                    file.write(piece)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return True


def _equal(member: Member, target: Path) -> bool:
    with target.open("rb") as file:
        return target.stat().st_size == member.size and all(p == file.read(len(p)) for p in pieces(member))
