import random

import numpy as np
import pytest
from clips import SIZE, numbered, write_clip, write_sound
from PIL import Image

from carclf.video import Clip, VideoError, list_clips
from carclf.video.frames import ClipLimits

TENTHS = np.arange(50) / 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clip of five seconds, ten frames a second, in six containers."""
    folder = tmp_path_factory.mktemp("clips")
    for suffix, codec in {"webm": "libvpx-vp9", "avi": "mpeg4"}.items():
        write_clip(folder / f"clip.{suffix}", numbered(), TENTHS, codec)
    for suffix in ("mp4", "mov", "mkv", "ts"):
        write_clip(folder / f"clip.{suffix}", numbered(), TENTHS)
    return folder


def read(path, **settings):
    clip = Clip(path, **settings)
    return list(clip), clip


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "avi", "webm"])
def test_a_frame_is_kept_every_so_many_seconds_in_any_container(made, suffix):
    found, clip = read(made / f"clip.{suffix}", every=0.5)
    assert [frame.number for frame in found] == list(range(0, 50, 5))
    assert [frame.time for frame in found] == pytest.approx(np.arange(10) / 2)
    grey = [np.asarray(frame.image).mean() for frame in found]
    assert grey == pytest.approx([20 * i for i in range(10)], abs=3)
    assert clip.duration == pytest.approx(5, abs=0.2)
    assert not clip.problems


def test_spacing_is_of_presentation_time_not_of_frames(tmp_path):
    times = [0, 0.05, 0.1, 0.15, 0.2, 1.0, 1.01, 1.02, 1.9, 4.0]
    found, _ = read(write_clip(tmp_path / "a.mp4", numbered(10), times), every=0.5)
    assert [frame.number for frame in found] == [0, 5, 8, 9]  # no frame twice, none of the pauses filled
    assert [frame.time for frame in found] == pytest.approx([0, 1, 1.9, 4])


def test_a_stream_without_times_is_read_from_its_first_frame_on(tmp_path):
    raw = write_clip(tmp_path / "a.h264", numbered(), TENTHS)  # no container, so 25 frames a second are assumed
    found, _ = read(raw, every=0.2)
    assert [frame.number for frame in found] == list(range(0, 50, 5))
    assert [frame.time for frame in found] == pytest.approx(np.arange(10) / 5)


def test_reading_stops_where_it_is_told_to(made):
    found, clip = read(made / "clip.mp4", every=0.1, seconds=1)
    assert len(found) == 10
    assert clip.duration == 1


def test_a_rotated_clip_is_turned_upright(tmp_path):
    image = np.full((*SIZE[::-1], 3), 60, np.uint8)
    image[:40, :40] = 250  # upper left
    path = write_clip(tmp_path / "a.mp4", [image] * 5, TENTHS[:5])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of a phone held upright: x' = -y, y' = x
    for place, value in enumerate((0, 1, 0, -1, 0, 0)):
        data[matrix + 4 * place : matrix + 4 * place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    upright = np.asarray(read(path)[0][0].image)
    assert upright.shape[:2] == SIZE
    assert upright[:30, -30:].mean() > 230  # turned clockwise, it is upper right
    assert upright[:30, :30].mean() < 80


def test_pixels_become_square(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered(5), TENTHS[:5], sample_aspect_ratio=2)
    assert read(path)[0][0].image.size == (2 * SIZE[0], SIZE[1])


def test_a_folder_of_frames_is_read_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 9, 10, 11):
        Image.new("RGB", SIZE, (number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "frame_3.png").write_bytes(b"no picture")
    found, clip = read(tmp_path, every=0.5)
    assert [frame.image.getpixel((0, 0))[0] for frame in found] == [1, 2, 9, 10, 11]
    assert [frame.time for frame in found] == [0, 0.5, 1.5, 2, 2.5]
    assert clip.problems == {"frames that cannot be read": 1}


def test_clips_of_a_folder_are_listed_sorted(made, tmp_path):
    assert [path.rpartition(".")[2] for path in list_clips(made)] == ["avi", "mkv", "mov", "mp4", "ts", "webm"]
    assert list_clips(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"", r"a.mp4: the file is empty \(0 bytes\); copy or record it again"),
        ("a.mp4", b"just a text\n" * 100, "a.mp4: it is not a readable video .*; copy it again or convert it"),
        ("a.avi", bytes(5000), "a.avi: it is not a readable video"),
        ("a.mkv", bytes(range(256)) * 40, "a.mkv: it is not a readable video"),
        ("a.mp4", None, "there is no such file; check its path"),
    ],
)
def test_what_is_no_video_is_refused_with_the_remedy(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=message):
        read(tmp_path / name)


def test_sound_alone_is_refused(tmp_path):
    with pytest.raises(VideoError, match=r"a.mp4: it holds audio, no video; give a clip with pictures"):
        read(write_sound(tmp_path / "a.mp4"))


def test_a_folder_without_frames_is_refused(tmp_path):
    with pytest.raises(VideoError, match=r"no frames in this folder; put frame_0001.jpg"):
        read(tmp_path)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(VideoError, match="none of 1 frames can be read"):
        read(tmp_path)


def test_a_device_or_pipe_is_refused_before_it_can_hang():
    with pytest.raises(VideoError, match="not a regular file"):
        read("/dev/zero")


@pytest.mark.parametrize("every", [0, -1, float("nan"), 1e9])
def test_spacing_must_make_sense(made, every):
    with pytest.raises(ValueError, match=r"every=.* 0.001 to 3600 seconds apart"):
        Clip(made / "clip.mp4", every=every)
    with pytest.raises(ValueError, match="seconds=0: it must be above 0"):
        Clip(made / "clip.mp4", seconds=0)


@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "sdp", "concat", "txt"])
def test_a_list_of_other_files_is_not_followed(made, tmp_path, suffix):
    import av

    target = made / "clip.ts"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:5,\n{target.as_uri()}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile {target}\n"
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n"
    for content in (hls, concat, sdp):
        path = tmp_path / f"a.{suffix}"
        path.write_text(content)
        with pytest.raises(VideoError, match="it is not a readable video"):
            read(path)
    (tmp_path / "b.m3u8").write_text(hls)  # FFmpeg alone would have followed it
    with av.open(str(tmp_path / "b.m3u8")) as plain:
        assert plain.format.name == "hls"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.mp4", "https://x/y", "file:///etc/passwd", "udp://x", "ftp://x"]
)
def test_only_cameras_are_addressed(address):
    with pytest.raises(VideoError, match="only rtsp:// and rtsps:// are read; download a clip first"):
        Clip(address)


@pytest.mark.parametrize("name", ["concat:{}|{}", "subfile,,start,0,end,0,,:{}", "crypto:{}", "data:,AAAA"])
def test_names_are_paths_not_protocols(made, name):
    with pytest.raises(VideoError, match="there is no such file"):
        read(name.format(made / "clip.ts", made / "clip.ts"))


def test_a_camera_that_does_not_answer_is_an_error_without_its_password():
    with pytest.raises(VideoError, match=r"rtsp://127.0.0.1:9/x: the camera does not answer") as caught:
        read("rtsp://user:se@cret@127.0.0.1:9/x")
    assert "cret" not in str(caught.value)


def test_a_camera_that_stays_silent_runs_into_the_time_limit():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts and says nothing
        address = f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(VideoError, match="the camera does not answer"):
            read(address, limits=ClipLimits(open_seconds=0.3, read_seconds=0.3))


def test_large_frames_are_refused_before_they_are_decoded(made):
    with pytest.raises(VideoError, match="frames of 320 × 180, at most 1,000 pixels are decoded; make"):
        read(made / "clip.mp4", limits=ClipLimits(max_pixels=1000))


def test_frames_that_grow_in_the_middle_of_a_clip_are_not_decoded(made, tmp_path):
    large = [np.full((360, 640, 3), 9, np.uint8)] * 30
    (tmp_path / "a.ts").write_bytes(
        (made / "clip.ts").read_bytes() + write_clip(tmp_path / "b.ts", large, np.arange(30) / 10).read_bytes()
    )
    clip = Clip(tmp_path / "a.ts", limits=ClipLimits(max_pixels=SIZE[0] * 192))
    sizes = set()
    try:
        sizes = {frame.image.size for frame in clip}
    except VideoError as error:
        assert "640 × 360" in str(error)
    assert sizes <= {SIZE}


def test_a_missing_end_is_counted(made, tmp_path):
    data = (made / "clip.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    found, clip = read(tmp_path / "a.mkv")
    assert 3 < len(found) < 20
    assert clip.problems["seconds missing at the end"] in (2, 3, 4)


def test_an_mp4_cut_off_before_its_index_says_so(made, tmp_path):
    data = (made / "clip.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="or its index is missing; copy it again"):
        read(tmp_path / "a.mp4")


def damage(data: bytes, kind: str, rng: random.Random) -> bytes:
    """One of a dozen ways in which a file breaks."""
    n, out = len(data), bytearray(data)
    at = rng.randrange(n)
    if kind == "cut":
        return data[:at]
    if kind == "head lost":
        return data[at:]
    if kind == "hole":
        return data[:at] + data[min(n, at + n // 10) :]
    if kind == "doubled":
        return data[:at] + data[at // 2 : at] + data[at:]
    if kind == "swapped":
        return data[at:] + data[:at]
    if kind == "joined":
        return data + data
    if kind == "garbage after":
        return data + rng.randbytes(n // 2)
    if kind == "garbage before":
        return rng.randbytes(100) + data
    if kind == "zeros":
        out[at : at + n // 5] = bytes(len(out[at : at + n // 5]))
    elif kind == "ones":
        out[at : at + n // 20] = b"\xff" * len(out[at : at + n // 20])
    elif kind == "noise":
        out[at : at + n // 20] = rng.randbytes(len(out[at : at + n // 20]))
    elif kind == "header":
        for _ in range(8):
            out[rng.randrange(min(n, 400))] = rng.randrange(256)
    elif kind == "index":
        for _ in range(8):
            out[n - 1 - rng.randrange(min(n, 900))] = rng.randrange(256)
    else:
        for _ in range(max(1, n // 500)):
            out[rng.randrange(n)] ^= 1 << rng.randrange(8)
    return bytes(out)


KINDS = ["cut", "head lost", "hole", "doubled", "swapped", "joined", "garbage after", "garbage before"]
KINDS += ["zeros", "ones", "noise", "header", "index", "bits"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_clips_give_frames_or_an_error_that_names_the_file(made, tmp_path, kind):
    rng = random.Random(kind)
    for suffix in ("mp4", "mkv", "ts", "avi", "webm"):
        for trial in range(4):
            path = tmp_path / f"damaged {trial}.{suffix}"
            path.write_bytes(damage((made / f"clip.{suffix}").read_bytes(), kind, rng))
            try:
                found, _ = read(path)
            except VideoError as error:
                assert path.name in str(error) and ";" in str(error)
            else:
                assert found and all(frame.image.mode == "RGB" for frame in found)
                assert np.all(np.diff([frame.time for frame in found]) > 0)


def test_without_pyav_the_extra_is_named(made, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"clips need PyAV; run: pip install 'carclf\[video\]'"):
        read(made / "clip.mp4")
