"""A public set of photos -> a folder: fetched, unpacked and looked through."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm.auto import tqdm

from carclf.brands import parse_brand
from carclf.photos import PhotoError, read_photo
from carclf.unpacking import Unpacked, unpack

SAMPLE = 200  # photos decoded to see whether a set is sound; `carclf.scan` decodes all


class KaggleSet(NamedTuple):
    """A public set: its name on Kaggle, and how many photos it is known to have."""

    handle: str
    photos: int

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"https://www.kaggle.com/datasets/{self.handle}"


SETS = {"listing": KaggleSet("prondeau/the-car-connection-picture-dataset", 64_467)}
BY_HAND = "or download the zip from {page} with a browser, then: python -m carclf download path/to/archive.zip"
ACCOUNT = (
    "sign in at {page}, accept the terms if it asks, create a token at https://www.kaggle.com/settings/api and save "
    "it as ~/.kaggle/access_token, or the older kaggle.json as ~/.kaggle/kaggle.json"
)


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
    """Bring a set of photos into a folder, and look whether it is what it should be.

    "listing" is The Car Connection Picture Dataset. kagglehub fetches it, compares the archive with the checksum that
    the server names, and unpacks it into its own cache; the photos are copied from there.

    Parameters
    ----------
    source : "listing", or the path of an archive or folder that you downloaded yourself
    folder : where the photos go; what is there stays as it is. Called again, it goes on.

    Raises
    ------
    OSError
        Where kagglehub, the network, credentials or disk are missing.
    ValueError
        Where the source is unknown or holds no photo; where a known set has 5 % photos too few or too many, or 5 % of
        its names carry no brand, or 5 % of the sample is broken.
    """
    known = SETS.get(os.fspath(source))
    if known is None and not Path(source).exists():
        raise ValueError(f"source {os.fspath(source)!r} must be {', '.join(map(repr, SETS))} or an archive's path")
    place = _fetch(known) if known else Path(source)
    unpacked = unpack(place, folder)
    names = sorted(unpacked.written + unpacked.present)
    if not names:
        raise ValueError(f"no photo came out of {place}: {unpacked}".replace("\n", "; "))
    branded = sum(parse_brand(PurePosixPath(name).name) is not None for name in names)
    sample = names[:: -(-len(names) // SAMPLE)]
    problems = {name: _problem(Path(folder, name)) for name in tqdm(sample, "look", unit="photo", leave=False)}
    broken = {name: problem for name, problem in problems.items() if problem}
    off = max(abs(len(names) / known.photos - 1), 1 - branded / len(names), len(broken) / len(sample)) if known else 0
    if off > 0.05:  # a set may change, but not that much
        raise ValueError(
            f"{folder} has {len(names):,} photos of this set where about {known.photos:,} are expected, {branded:,} "
            f"with a brand in the name, {len(broken)} of {len(sample)} sampled ones broken; delete {place} and retry"
        )
    return Downloaded(unpacked, len(names), branded, len(sample), broken, place if known else None)


def _problem(path: Path) -> str | None:
    try:
        read_photo(path)
    except PhotoError as error:
        return str(error)
    return None


def _fetch(known: KaggleSet) -> Path:
    """The folder in which kagglehub has unpacked the set."""
    by_hand = BY_HAND.format(page=known.page)
    try:
        import kagglehub
    except ImportError as error:
        message = 'kagglehub is not installed: pip install "carclf[download]", or pip install kagglehub'
        raise OSError(f"{message}; {by_hand}") from error
    try:
        return Path(kagglehub.dataset_download(known.handle))
    except Exception as error:  # of a dozen kinds, most of them plain Exceptions
        raise OSError(f"{known.handle} was not downloaded: {_why(error, known)}; {by_hand}") from error


def _why(error: Exception, known: KaggleSet) -> str:
    """What kagglehub ran into, and the remedy. Kinds go by name: the classes are kagglehub's and requests' own."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = " ".join(str(error).split())
    if kinds & {"ConnectionError", "Timeout", "TimeoutError", "ChunkedEncodingError"}:
        return "there is no network to Kaggle, or it broke off; with network the same call goes on"
    if kinds & {"UnauthenticatedError", "CredentialError"} or status in (401, 403) or "credentials" in said:
        answer = f"it answers {status}" if status else said
        return f"Kaggle wants to know who asks ({answer}); {ACCOUNT.format(page=known.page)}"
    if kinds & {"DataCorruptionError", "BadZipFile"}:
        return "what came is damaged; try again"
    return f"{type(error).__name__}{f' {status}' if status else ''}: {said}"
