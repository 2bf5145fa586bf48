"""A clip -> upright RGB frames, evenly spaced in presentation time, or a `VideoError` that says why not.

PyAV (FFmpeg) decodes. It knows hundreds of formats, and some of them are lists of other files and addresses: a clip of
unknown origin must not make this machine open those. So only the containers of cameras and phones are read, whatever
the file is called, and a file may open no other.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from carclf.data.photos import SUFFIXES as PHOTO_SUFFIXES
from carclf.data.photos import PhotoError, read_photo

# FFmpeg's names of what is read from a file; the content decides, not the ending. HLS, DASH, concat, SDP, image
# sequences and the like, which open other files, stay out.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",  # the last four words of this one name belong together
    *("matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "h264", "hevc", "m4v", "mjpeg"),
    *("ivf", "mxf", "nut", "dv", "gif"),
)
SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"))
SUFFIXES |= {".mpg", ".mpeg", ".vob", ".flv", ".ogv", ".wmv", ".asf", ".mxf"}
CAMERAS = ("rtsp://", "rtsps://")
BAD_IN_A_ROW = 200  # packets that cannot be read, one after the other, before the rest is given up
ROUNDING = 1e-6  # of times, which are fractions in the file and floats here


@dataclass(frozen=True)
class ClipLimits:
    """What is too large or too slow to be read."""

    max_pixels: int = 8192 * 4320  # of one frame; the header is checked before one is decoded
    open_seconds: float = 10.0  # that a camera has to answer
    read_seconds: float = 10.0  # that a camera has to send the next packet
    camera_seconds: float = 60.0  # watched at a camera unless `seconds` says otherwise


LIMITS = ClipLimits()


class VideoError(ValueError):
    """A clip that cannot be used; the message names the clip, the rule and the remedy."""


class Frame(NamedTuple):
    """One frame that was kept."""

    number: int  # of this frame among all that the clip shows, or of the file in its folder; from 0
    time: float  # seconds since the clip's first frame
    image: Image.Image  # RGB, upright, square pixels


class Clip:
    """A clip, read frame by frame: `for frame in Clip("street.mp4"): …`. Memory does not depend on its length.

    Parameters
    ----------
    source : a video file, a camera's address (rtsp://…), or a folder of frames, sorted by the numbers in their names
    every : seconds of presentation time from one kept frame to the next: the first frame of each interval is kept. In a
        folder, the time from one file to the next.
    seconds : stop after so much of the clip; None: the whole file, or `limits.camera_seconds` of a camera

    Attributes
    ----------
    problems : Counter, what could not be read so far, by kind
    duration : float, seconds to be read according to the header; None if it does not say
    """

    def __init__(
        self, source: str | os.PathLike, every: float = 0.2, seconds: float | None = None, limits: ClipLimits = LIMITS
    ) -> None:
        if not 0.001 <= every <= 3600:
            raise ValueError(f"every={every}: frames are 0.001 to 3600 seconds apart; try 0.2")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds={seconds}: it must be above 0, or None for the whole clip")
        self.name = os.fsdecode(source)
        self.every, self.limits, self.problems = float(every), limits, Counter[str]()
        self.is_camera = self.name.lower().startswith(CAMERAS)
        if "://" in self.name and not self.is_camera:
            raise VideoError(f"{_safe(self.name)}: only rtsp:// and rtsps:// are read; download a clip first")
        self.label = _safe(self.name)
        self.seconds = limits.camera_seconds if self.is_camera and seconds is None else seconds
        self.duration: float | None = self.seconds if self.is_camera else None
        self._frames = [] if self.is_camera else _check(self.name, self.label)
        if self._frames:
            self.duration = self._cut(len(self._frames) * self.every)

    def __iter__(self) -> Iterator[Frame]:
        return self._of_folder() if self._frames else self._of_stream()

    def _of_folder(self) -> Iterator[Frame]:
        shown = 0
        for number, path in enumerate(self._frames):
            if self.seconds is not None and number * self.every >= self.seconds:
                return
            try:
                frame = Frame(number, number * self.every, read_photo(path))
            except PhotoError:
                self.problems["frames that cannot be read"] += 1
                continue
            yield frame
            shown += 1
        if not shown:
            raise VideoError(f"{self.label}: none of {len(self._frames)} frames can be read; save them as JPEG or PNG")

    def _of_stream(self) -> Iterator[Frame]:
        av, shown, started = load_av(self.label), 0, time.monotonic()
        container = self._open(av)
        try:
            stream = self._stream(container)
            step, begin, due = _step(stream), None, 0
            last = -step
            for number, frame in enumerate(self._decoded(container, stream, av)):
                begin = frame.time if begin is None else begin
                at = last + step if frame.time is None or begin is None else frame.time - begin
                if at <= last:  # a clock that stands or goes back
                    self.problems["frames out of order"] += 1
                    continue
                if self.seconds is not None and at >= self.seconds:
                    return
                last = at
                if at < due * self.every - ROUNDING:
                    continue
                due = int(at / self.every + ROUNDING) + 1
                image = self._image(frame, stream.sample_aspect_ratio)
                if image is not None:
                    yield Frame(number, at, image)
                    shown += 1
                if self.is_camera and time.monotonic() - started > self.limits.open_seconds + (self.seconds or 0):
                    return  # its clock may stand
            if not shown:
                counted = f" ({described(self.problems)})" if self.problems else ""
                raise VideoError(f"{self.label}: no frame can be decoded{counted}; copy or record it again")
            if self.duration is not None and last < self.duration - max(1.0, 2 * self.every) and not self.is_camera:
                self.problems["seconds missing at the end"] += round(self.duration - last)
        finally:
            container.close()

    def _open(self, av: Any) -> Any:
        # Bounds on what FFmpeg does before the header is known; it hands `max_pixels` to the decoders that it tries.
        options = {"max_pixels": str(self.limits.max_pixels), "max_streams": "64", "err_detect": "ignore_err"}
        if self.is_camera:
            # TCP: lost packets of UDP would smear the picture.
            options |= {"rtsp_transport": "tcp", "format_whitelist": "rtsp,mpegts", "allowed_media_types": "video"}
            options["protocol_whitelist"] = "rtsp,rtsps,tcp,tls,rtp,srtp,udp"
            address, timeout = self.name, (self.limits.open_seconds, self.limits.read_seconds)
        else:
            options |= {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
            address, timeout = f"file:{Path(self.name).absolute()}", None
        try:
            return av.open(address, options=options, metadata_errors="replace", timeout=timeout)
        except Exception as error:  # FFmpeg raises whatever it likes on hostile bytes
            raise VideoError(f"{self.label}: {_reason(error, self.is_camera)}") from error

    def _stream(self, container: Any) -> Any:
        """The video stream, its size checked and its decoder set up."""
        if not container.streams.video:
            kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise VideoError(f"{self.label}: it holds {kinds}, no video; give a clip with pictures")
        stream = container.streams.best("video") or container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{self.label}: there is no decoder for its pictures; convert it to H.264 in MP4")
        self._check_size(context.width, context.height)
        context.thread_type = "AUTO"
        context.options = {**context.options, "max_pixels": str(self.limits.max_pixels)}  # the size may change later
        if not self.is_camera:
            length = float(stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6)
            # A header may say anything; this is only for the progress bar, and to notice that the end is missing.
            self.duration = self._cut(length) if 0 < length < 1e7 else None
        return stream

    def _decoded(self, container: Any, stream: Any, av: Any) -> Iterator[Any]:
        """Frames in the order of presentation. Packets that cannot be read are counted and left out."""
        bad = 0
        while bad < BAD_IN_A_ROW:
            try:
                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except av.error.EOFError:
                        return
                    except Exception:  # FFmpeg raises whatever it likes on hostile bytes
                        self.problems["packets that cannot be decoded"] += 1
                        frames, bad = [], bad + 1
                        if bad >= BAD_IN_A_ROW:
                            break
                    if frames:
                        bad = 0
                    yield from frames
                else:
                    return
            except Exception as error:
                if self.is_camera:
                    late = isinstance(error, av.error.TimeoutError)
                    self.problems["time limits reached" if late else "connections lost"] += 1
                    return
                self.problems["places where the file cannot be read"] += 1
                bad += BAD_IN_A_ROW // 10
        self.problems["ends given up"] += 1

    def _image(self, frame: Any, aspect: Any) -> Image.Image | None:
        """RGB, upright, with square pixels; None, counted, if it cannot be converted."""
        self._check_size(frame.width, frame.height)
        try:
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
        except Exception:  # as above
            self.problems["frames that cannot be converted"] += 1
            return None
        if aspect and aspect != 1 and 0.25 < aspect < 4:
            image = image.resize((max(1, round(image.width * aspect)), image.height))
        return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.limits.max_pixels:
            most = f"at most {self.limits.max_pixels:,} pixels are decoded"
            raise VideoError(f"{self.label}: frames of {width} × {height}, {most}; make the clip smaller")

    def _cut(self, duration: float) -> float:
        return duration if self.seconds is None else min(duration, self.seconds)


def described(problems: Counter[str]) -> str:
    """Problems as "3 packets that cannot be decoded, 2 frames out of order"."""
    return ", ".join(f"{count} {what}" for what, count in sorted(problems.items()))


def is_clip(path: str | os.PathLike) -> bool:
    """Whether this is a camera's address or has the ending of a video file."""
    name = os.fsdecode(path)
    return name.lower().startswith(CAMERAS) or Path(name).suffix.lower() in SUFFIXES


def list_clips(folder: str | os.PathLike) -> list[str]:
    """Sorted absolute paths of all files below a folder with the ending of a video; dot files are left out."""
    found = []
    for place, folders, names in os.walk(Path(folder).absolute()):  # does not follow links, so there are no loops
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(Path(place, name)) for name in names if not name.startswith(".") and is_clip(name)]
    return sorted(found)


def clips_in(path: str | os.PathLike) -> list[str]:
    """The clips of a folder that holds some; else the path itself: a clip, or a folder of frames."""
    return (list_clips(path) if Path(path).is_dir() else []) or [os.fsdecode(path)]


def _check(name: str, label: str) -> list[str]:
    """The frames of a folder in order, or none for a file; VideoError if it is neither, or empty."""
    path = Path(name)
    try:
        if path.is_dir():
            names = [p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES and not p.name.startswith(".")]
            if not names:
                raise VideoError(f"{label}: no frames in this folder; put frame_0001.jpg, frame_0002.jpg, … there")
            return [str(p) for p in sorted(names, key=lambda p: (_numbers(p.stem), p.name))]
        if not path.exists():
            raise VideoError(f"{label}: there is no such file; check its path")
        if not path.is_file():  # a pipe or a device would hang
            raise VideoError(f"{label}: not a regular file; give a clip, a folder of frames or an rtsp:// address")
        if not path.stat().st_size:
            raise VideoError(f"{label}: the file is empty (0 bytes); copy or record it again")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{label}: it cannot be read ({error}); check its path and your permission") from error
    return []


def _numbers(stem: str) -> tuple[int, ...]:
    """Numbers in a name: frame 10 comes after frame 9, however many zeros they have."""
    return tuple(int(digits) for digits in re.findall(r"\d+", stem))


def _step(stream: Any) -> float:
    """Seconds from one frame to the next, for files that do not say when each is shown."""
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else 1 / 25


def load_av(label: str) -> Any:
    """PyAV, which only clips need; VideoError with the remedy if it is missing."""
    try:
        import av
    except ImportError as error:
        raise VideoError(f"{label}: clips need PyAV; run: pip install 'carclf[video]'") from error
    av.logging.set_level(None)  # its complaints about broken packets are counted here
    return av


def _safe(name: str) -> str:
    """A name fit for a message: one line, without the password of a camera."""
    return re.sub(r"(?<=://)[^/]*@", "", "".join(c if c.isprintable() else "?" for c in name))


def _reason(error: Exception, is_camera: bool) -> str:
    said = getattr(error, "strerror", None) or type(error).__name__
    if is_camera:
        return f"the camera does not answer ({said}); check its address, name and password"
    return f"it is not a readable video ({said}), or its index is missing; copy it again or convert it to MP4"
