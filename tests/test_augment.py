"""Plain is a resize and a normalisation; every random change stays within its declared strength."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from carclf.augment import DRAWS, IMAGENET_MEAN, IMAGENET_STD, LUMA, Augment

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # results from 0 to 1
STRENGTHS = {
    "flip": 0.5,
    "rotate": 10.0,
    "zoom_in": 0.3,
    "zoom_out": 0.2,
    "aspect": 0.2,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.4,
    "hue": 0.1,
    "grey": 0.5,
    "erase": 0.5,
}


def only(size: int, **strengths) -> Augment:
    """These changes and no other, without normalisation."""
    return replace(Augment(size, **RAW).plain(), **strengths)


def noise(n: int, height: int = 24, width: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def smooth(side: int) -> torch.Tensor:
    """One photo of slow waves, different in every direction and channel."""
    t = torch.linspace(0, 2 * math.pi, side)
    waves = [torch.sin(a * t + a)[:, None] + torch.cos(b * t)[None] for a, b in ((1, 2), (2, 1), (1.5, 0.5))]
    return (127 + 60 * torch.stack(waves)).to(torch.uint8)[None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def luma(y: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nchw,c->nhw", y, torch.tensor(LUMA))


# --- plain


@pytest.mark.parametrize("size", [12, 17, 24, 40])
@pytest.mark.parametrize("shape", [(24, 24), (30, 24)])
def test_plain_is_resize_and_normalisation(size, shape):
    x = noise(3, *shape)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    resized = F.interpolate(x.float() / 255, (size, size), mode="bilinear", align_corners=False, antialias=False)
    reference = (resized - mean[:, None, None]) / std[:, None, None]
    y = Augment(size).plain()(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, reference, rtol=0, atol=1e-5)


def test_plain_uses_the_backbones_normalisation():
    x = torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)
    y = Augment(8, mean=(0.2, 0.1, 0.0), std=(1.0, 0.5, 0.25)).plain()(x)
    torch.testing.assert_close(y[0, :, 0, 0], torch.tensor([0.0, 0.2, 0.8]))


def test_plain_has_nothing_random_and_keeps_the_rest():
    augment = Augment(20, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), **STRENGTHS)
    plain = augment.plain()
    assert plain == plain.plain()
    assert (plain.size, plain.mean, plain.std) == (augment.size, augment.mean, augment.std)
    x = noise(4)
    assert torch.equal(plain(x, generator=seeded(1)), plain(x, generator=seeded(2)))


# --- randomness


@pytest.mark.parametrize("n", [1, 2, 5])
def test_result_has_the_declared_shape_and_is_finite(n):
    x = noise(n, 20, 30)
    before = x.clone()
    y = Augment(16, **STRENGTHS)(x, generator=seeded())
    assert y.shape == (n, 3, 16, 16)
    assert y.dtype == torch.float32
    assert y.isfinite().all()
    assert torch.equal(x, before)


def test_same_generator_state_gives_the_same_views():
    x, augment = noise(6), Augment(20)
    generator = seeded()
    first, second = augment(x, generator=generator), augment(x, generator=generator)
    assert torch.equal(first, augment(x, generator=seeded()))
    assert not torch.equal(first, second)


def test_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    Augment(20)(noise(2), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_one_is_used():
    torch.manual_seed(3)
    first = Augment(20)(noise(2))
    torch.manual_seed(3)
    assert torch.equal(first, Augment(20)(noise(2)))


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_photo_is_changed_on_its_own(name):
    x = smooth(24).expand(16, -1, -1, -1)
    y = only(24, **{name: STRENGTHS[name]})(x, generator=seeded())
    different = len({photo.numpy().tobytes() for photo in y})
    assert different == 2 if name in ("flip", "grey") else different > 4


# --- geometry


def test_flip_mirrors():
    x = noise(3)
    torch.testing.assert_close(only(24, flip=1.0)(x), only(24)(x).flip(3), rtol=0, atol=1e-5)


def test_flip_has_its_probability():
    x = noise(1).expand(1000, -1, -1, -1)
    plain = only(24)(x[:1])
    mirrored = (only(24, flip=0.3)(x, generator=seeded()) - plain).abs().amax((1, 2, 3)) > 0.1
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_rotation_is_torchvisions():
    x = smooth(48)
    y = only(48, rotate=30.0)(x.expand(24, -1, -1, -1), generator=seeded())
    angles = np.arange(-40, 41)
    options = {"interpolation": InterpolationMode.BILINEAR}
    turned = torch.cat([V.rotate(x.float() / 255, float(angle), **options) for angle in angles])
    middle = (..., slice(14, 34), slice(14, 34))  # inside the circle that never leaves the photo
    far = (y[middle][:, None] - turned[middle][None]).abs().amax((2, 3, 4))
    nearest, angle = far.min(1).values, angles[far.argmin(1)]
    assert nearest.max() < 0.03  # half a degree at most is between two candidates
    assert np.abs(angle).max() <= 30
    assert angle.min() < -15
    assert angle.max() > 15


def views(**strengths) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and size [64, 2] of the views, (x, y), as shares of the photo."""
    ramp = torch.arange(256, dtype=torch.uint8)
    x = torch.stack([ramp.expand(256, 256), ramp[:, None].expand(256, 256), torch.zeros(256, 256, dtype=torch.uint8)])
    y = only(32, **strengths)(x.expand(64, -1, -1, -1), generator=seeded()) * 255 + 0.5
    # The ramps tell where a pixel was taken; the middle half lies in the photo for every view tested here.
    columns, rows = y[:, 0, 16, 8:24], y[:, 1, 8:24, 16]
    lines = torch.stack([columns, rows], 1)
    return lines.mean(2) / 256, (lines[..., -1] - lines[..., 0]) / 15 * 32 / 256


def test_zoom_in_crops_inside_the_photo():
    centre, size = views(zoom_in=0.35)
    torch.testing.assert_close(size[:, 0], size[:, 1], rtol=0, atol=1e-3)
    assert 0.649 <= size.min() < 0.7
    assert 0.95 < size.max() <= 1.001
    assert (centre - size / 2).min() >= -0.001
    assert (centre + size / 2).max() <= 1.001
    assert centre.min() < 0.4
    assert centre.max() > 0.6


def test_zoom_out_adds_around_the_photo():
    centre, size = views(zoom_out=0.15)
    assert 0.999 <= size.min() < 1.02
    assert 1.13 < size.max() <= 1.151
    assert (centre - size / 2).max() <= 0.001
    assert (centre + size / 2).min() >= 0.999


def test_aspect_keeps_the_area():
    _, size = views(aspect=0.2)
    ratio = (size[:, 0] / size[:, 1]).log()
    assert ratio.abs().max() <= 0.201
    assert ratio.min() < -0.15
    assert ratio.max() > 0.15
    torch.testing.assert_close(size.prod(1), torch.ones(64), rtol=0, atol=1e-3)


# --- colour


def test_grey_has_no_colour():
    x = noise(4)
    y = only(24, grey=1.0)(x)
    torch.testing.assert_close(y, luma(only(24)(x))[:, None].expand(-1, 3, -1, -1), rtol=0, atol=1e-5)


def test_grey_has_its_probability():
    y = only(4, grey=0.2, brightness=0.1)(noise(2000, 4, 4), generator=seeded())
    colourless = (y.amax(1) - y.amin(1)).amax((1, 2)) < 1e-4
    assert colourless.float().mean().item() == pytest.approx(0.2, abs=0.04)


def ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The one factor [N] between photos a and b [N, 3, H, W]; fails where there is more than one."""
    factor = (a * b).sum((1, 2, 3)) / (b * b).sum((1, 2, 3))
    torch.testing.assert_close(a, factor[:, None, None, None] * b, rtol=0, atol=1e-4)
    return factor


def assert_spans(values: torch.Tensor, low: float, high: float) -> None:
    """Within the bounds, and nearly up to them."""
    room = 0.1 * (high - low)
    assert low - 1e-3 <= values.min() < low + room
    assert high - room < values.max() <= high + 1e-3


def test_brightness_is_one_factor_within_bounds():
    x = noise(200, 8, 8)
    assert_spans(ratio(only(8, brightness=0.3)(x, generator=seeded()), only(8)(x)), 0.7, 1.3)


def test_contrast_is_one_factor_around_the_mean_grey():
    x = noise(200, 8, 8)
    y, plain = only(8, contrast=0.3)(x, generator=seeded()), only(8)(x)
    grey = luma(plain).mean((1, 2))[:, None, None, None]
    assert_spans(ratio(y - grey, plain - grey), 0.7, 1.3)


def test_saturation_keeps_the_grey_of_every_pixel():
    x = noise(200, 8, 8)
    y, plain = only(8, saturation=0.4)(x, generator=seeded()), only(8)(x)
    grey = luma(plain)[:, None]
    assert_spans(ratio(y - grey, plain - grey), 0.6, 1.4)


def test_hue_turns_around_the_grey_axis():
    x = noise(200, 8, 8)
    y, plain = only(8, hue=0.1)(x, generator=seeded()), only(8)(x)
    torch.testing.assert_close(y.mean(1), plain.mean(1), rtol=0, atol=1e-5)
    a, b = (z - z.mean(1, keepdim=True) for z in (y, plain))
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=1), rtol=0, atol=1e-5)
    turns = ((a * b).sum((1, 2, 3)) / (b * b).sum((1, 2, 3))).acos() / (2 * math.pi)
    assert_spans(turns, 0, 0.1)
    both_ways = torch.linalg.cross(b, a, dim=1).sum((1, 2, 3))
    assert (both_ways > 0).any()
    assert (both_ways < 0).any()


# --- erasing


def erased(size: int = 32, n: int = 2000, **strengths) -> torch.Tensor:
    """Which pixels [n, size, size] of white photos are erased."""
    y = only(size, **strengths)(torch.full((n, 3, 4, 4), 255, dtype=torch.uint8), generator=seeded())
    gone = (y == 0).all(1)
    assert (y.amin(1)[~gone] > 0.99).all()
    return gone


def test_erasing_has_its_probability_and_area():
    gone = erased(erase=0.25)
    touched = gone.any(2).any(1)
    assert touched.float().mean().item() == pytest.approx(0.25, abs=0.04)
    share = gone[touched].float().mean((1, 2))
    assert share.max() <= 0.2 + 0.03  # a rectangle covers up to half a pixel more on either side
    assert share.max() > 0.15


def test_erased_is_one_rectangle():
    for gone in erased(erase=1.0, n=100):
        rows, columns = gone.any(1), gone.any(0)
        assert torch.equal(gone, rows[:, None] & columns[None])
        for side in (rows, columns):
            where = side.nonzero().flatten()
            assert torch.equal(where, torch.arange(len(where)) + (where[0] if len(where) else 0))


def test_small_and_no_area_are_kept():
    assert erased(erase=1.0, erase_area=0.01, size=64, n=400).float().mean((1, 2)).max() <= 0.01 + 0.006
    assert not erased(erase=1.0, erase_area=0.0, n=400).any()


def test_erased_pixels_have_the_mean_colour():
    y = replace(Augment(16).plain(), erase=1.0, erase_area=0.9)(torch.full((8, 3, 4, 4), 255, dtype=torch.uint8))
    assert (y == 0).any()


# --- errors


def test_other_dtypes_are_refused():
    for dtype in (torch.float32, torch.int64):
        with pytest.raises(TypeError, match=rf"uint8 photos \(0 to 255\), got {dtype}; pass TensorCache.batch"):
            Augment(8)(noise(1).to(dtype))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3), (8,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=rf"takes a batch \[N, 3, H, W\], got \[{', '.join(map(str, shape))}\]"):
        Augment(8)(torch.zeros(shape, dtype=torch.uint8))


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Augment(8).size = 9


def test_a_photos_view_follows_from_its_own_draws():
    x = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)
    draws = torch.rand(6, DRAWS)
    views = Augment(size=32)(x, draws=draws)
    part = torch.tensor([4, 1])
    torch.testing.assert_close(Augment(size=32)(x[part], draws=draws[part]), views[part], rtol=1e-4, atol=1e-4)
    again = Augment(size=32)(x, generator=torch.Generator().manual_seed(3))
    drawn = torch.rand(6, DRAWS, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again, Augment(size=32)(x, draws=drawn))
