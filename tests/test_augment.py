"""Plain is resize and normalisation; every change is torchvision's, drawn uniformly up to its declared strength."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from carclf.model.augment import DRAWS, FINER, IMAGENET_MEAN, IMAGENET_STD, LUMA, Augment

GEOMETRY = {"flip": 0.5, "rotate": 10.0, "zoom_in": 0.3, "zoom_out": 0.2, "aspect": 0.2, "shift": 0.1}
COLOURS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.4, "hue": 0.1, "grey": 0.5}
STRENGTHS = GEOMETRY | COLOURS | {"blur": 1.5, "erase": 0.5}


def only(size: int, **strengths) -> Augment:
    """These changes and no other; without normalisation, so results lie between 0 and 1."""
    return replace(Augment(size, mean=(0.0,) * 3, std=(1.0,) * 3).plain(), **strengths)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, height: int = 24, width: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=seeded(1))


def smooth(side: int) -> torch.Tensor:
    """One photo of slow waves, different in every direction and channel."""
    t = torch.linspace(0, 2 * math.pi, side)
    waves = [torch.sin(a * t + a)[:, None] + torch.cos(b * t)[None] for a, b in ((1, 2), (2, 1), (1.5, 0.5))]
    return (127 + 60 * torch.stack(waves)).to(torch.uint8)[None]


def muted(side: int) -> torch.Tensor:
    """One photo of noise far from black and white, where torchvision would cut off what goes beyond."""
    return 96 + noise(1, side, side) // 4


# --- plain


@pytest.mark.parametrize("size", [12, 17, 24, 40])
@pytest.mark.parametrize("shape", [(24, 24), (30, 24), (24, 30)])
@pytest.mark.parametrize("mean_std", [(IMAGENET_MEAN, IMAGENET_STD), ((0.2, 0.1, 0.0), (1.0, 0.5, 0.25))])
def test_plain_is_torchs_resize_to_the_last_bit_and_normalisation(size, shape, mean_std):
    x = noise(3, *shape)
    mean, std = (torch.tensor(v)[:, None, None] for v in mean_std)
    resized = F.interpolate(x.float(), (size, size), mode="bilinear", align_corners=False, antialias=False)
    assert torch.equal(Augment(size, mean=(0.0,) * 3, std=(1 / 255,) * 3).plain()(x), resized)
    y = Augment(size, *mean_std, **STRENGTHS).plain()(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, (resized / 255 - mean) / std, rtol=0, atol=1e-5)


def test_nothing_is_the_limit_of_the_smallest_changes():
    x = noise(4)
    tiny = only(20, **dict.fromkeys(STRENGTHS, 1e-6))
    torch.testing.assert_close(tiny(x, generator=seeded()), only(20)(x), rtol=0, atol=1e-4)


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


def test_random_numbers_come_from_the_generator_or_without_one_from_the_global_one():
    x, augment, generator = noise(6), Augment(20, **STRENGTHS), seeded(3)
    views = augment(x, generator=generator)
    assert torch.equal(views, augment(x, draws=torch.rand(6, DRAWS, generator=seeded(3))))
    torch.manual_seed(3)
    assert not torch.equal(augment(x, generator=generator), views)
    assert torch.equal(augment(x), views)  # the call before has drawn no global number


# --- each change alone is torchvision's


def alike(u: float) -> torch.Tensor:
    """Draws [1, DRAWS] that are the same number, about u, as is the finer half of each: 4096 · k/4095 = k + k/4095."""
    return torch.full((1, DRAWS), round(u * (FINER - 1)) / (FINER - 1))


def single(x: torch.Tensor, u: float, **strengths) -> torch.Tensor:
    """A photo at its own size after these changes, each drawn as u."""
    return only(x.shape[-1], **strengths)(x, draws=alike(u))


def part(x: torch.Tensor, left: int, top: int, width: int, height: int) -> torch.Tensor:
    """This part of the photo, mirrored around its edges, at the photo's size; by torchvision."""
    side = x.shape[-1]
    around = V.pad(x / 255, [side // 2], padding_mode="symmetric")
    return V.resized_crop(around, top + side // 2, left + side // 2, height, width, [side, side], antialias=False)


def assert_inside(y: torch.Tensor, reference: torch.Tensor, rim: int) -> None:
    """Equal but for the rim, where torchvision repeats the edge or fills, and Augment takes what lies beyond."""
    inside = (..., *[slice(rim, y.shape[-1] - rim)] * 2)
    torch.testing.assert_close(y[inside], reference[inside], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "reference", "atol"),
    [("flip", V.horizontal_flip, 1e-4), ("grey", lambda x: V.rgb_to_grayscale(x, 3), 1e-3)],
)
def test_flip_and_grey_are_torchvisions(name, reference, atol):
    x = noise(1)
    torch.testing.assert_close(single(x, 0.5, **{name: 1.0}), reference(x / 255), rtol=0, atol=atol)


@pytest.mark.parametrize("u", [0.0, 0.1, 0.4, 0.9, 1.0])
def test_rotation_is_torchvisions(u):
    x = smooth(48)
    reference = V.rotate(x / 255, 30 * (2 * u - 1), interpolation=InterpolationMode.BILINEAR)
    assert_inside(single(x, u, rotate=30.0), reference, rim=12)


@pytest.mark.parametrize(
    ("u", "strength", "left_top_width_height", "rim"),
    [
        (0.25, {"zoom_in": 2 / 3}, (6, 6, 24, 24), 2),
        (0.25, {"zoom_out": 1 / 3}, (-3, -3, 52, 52), 2),
        (0.75, {"aspect": 4 * math.log(4 / 3)}, (-4, 9, 64, 36), 2),
        (0.25, {"shift": 0.25}, (-6, -6, 48, 48), 0),
        (0.75, {"shift": 0.25}, (6, 6, 48, 48), 0),
    ],
)
def test_zoom_aspect_and_shift_are_torchvisions_crops(u, strength, left_top_width_height, rim):
    x = smooth(48)
    assert_inside(single(x, u, **strength), part(x, *left_top_width_height), rim)


@pytest.mark.parametrize(
    ("name", "u"),  # a third of a turn of hue exchanges the channels, around the grey axis as in HSV
    [*product(("brightness", "contrast", "saturation"), (0.0, 0.1, 0.5, 0.8, 1.0)), ("hue", 0.0), ("hue", 1.0)],
)
def test_colours_are_torchvisions(name, u):
    x, (unchanged, strength) = muted(24), (0, 1 / 3) if name == "hue" else (1, 0.3)
    reference = getattr(V, f"adjust_{name}")(x / 255, unchanged + strength * (2 * u - 1))
    torch.testing.assert_close(single(x, u, **{name: strength}), reference, rtol=0, atol=1e-3)


@pytest.mark.parametrize("turn", [-0.1, 0.02, 0.2])
def test_any_turn_moves_the_hue_that_torchvision_sees(turn):
    x = torch.randint(80, 120, (1, 3, 24, 24), generator=seeded())
    x += 60 * F.one_hot(torch.arange(24) % 3).T[:, None]  # not grey, which has no hue
    y = single(x.to(torch.uint8), 0.5 + turn / 0.5, hue=0.25)
    back = V.adjust_hue(y, -turn) - x / 255
    # The circle around the grey axis and the hexagon of HSV differ by 0.003 turns, and keep another brightness.
    assert (back - back.mean(1, keepdim=True)).abs().max() < 0.04
    shifted = V.adjust_hue(y, 0.05 - turn) - x / 255
    assert (shifted - shifted.mean(1, keepdim=True)).abs().max() > 0.06


@pytest.mark.parametrize("u", [0.0, 0.02, 0.3, 0.6, 0.999])
def test_blur_is_torchvisions(u):
    x = noise(1)
    reference = V.gaussian_blur(x / 255, [11, 11], [max(1.5 * u, 1e-3)])
    torch.testing.assert_close(single(x, u, blur=1.5), reference, rtol=0, atol=5e-4)


def test_a_photo_may_be_smaller_than_its_blur():
    assert only(3, blur=9.0)(noise(2), generator=seeded()).std((2, 3)).max() < only(3)(noise(2)).std((2, 3)).min()


@pytest.mark.parametrize("u", [0.25, 0.4, 0.5, 0.7])
def test_erasing_is_torchvisions(u):
    x = noise(1)
    y = single(x, u, erase=1.0, erase_area=0.16)
    width, height = (24 * math.sqrt(0.02 + 0.14 * u) * math.exp(s * (u - 0.5)) for s in (1, -1))
    left, right, top, bottom = (round(24 * u + sign * side / 2) for side in (width, height) for sign in (-1, 1))
    reference = V.erase(x / 255, top, left, bottom - top, right - left, torch.zeros(3, 1, 1))
    torch.testing.assert_close(y, reference, rtol=0, atol=1e-4)


# --- all changes together


@pytest.mark.parametrize("u", [0.1, 0.3, 0.45, 0.6, 0.8])
@pytest.mark.parametrize("spot", [(0.0, 0.0), (-0.4, 0.3), (0.5, 0.1)])
def test_a_known_pixel_lands_where_the_matrix_says(u, spot):
    view, stretch, angle = 0.6 + 0.5 * u, math.exp((u - 0.5) * 0.3), math.radians((2 * u - 1) * 30)
    width, height = view * stretch, view / stretch
    mirror = np.diag([-1.0 if u < 0.5 else 1.0, 1, 1])
    size = np.diag([width, height, 1])
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    place = np.eye(3)
    place[:2, 2] = (2 * u - 1) * np.abs([1 - width, 1 - height]) + 2 * (2 * u - 1) * 0.05
    x, y, _ = place @ turn @ size @ mirror @ [*spot, 1]  # the photo's coordinates, like the result's from -1 to 1
    strengths = {"flip": 0.5, "rotate": 30.0, "zoom_in": 0.4, "zoom_out": 0.1, "aspect": 0.3, "shift": 0.05}
    pixels = (torch.arange(96) + 0.5) / 48 - 1
    dot = 255 * torch.exp(-((pixels - x) ** 2 + (pixels[:, None] - y) ** 2) / 2 / 0.05**2)
    view = only(64, **strengths)(dot.round().to(torch.uint8).expand(1, 3, -1, -1), draws=alike(u))[0, 0].double()
    across = (torch.arange(64) + 0.5) / 32 - 1
    found = [(view * across).sum() / view.sum(), (view * across[:, None]).sum() / view.sum()]
    assert found == pytest.approx(spot, abs=0.005)  # a sixth of a pixel


def test_saturation_hue_brightness_and_contrast_follow_each_other():
    x = muted(24)
    y = single(x, 1.0, saturation=0.3, hue=1 / 3, brightness=0.2, contrast=0.2)
    reference = V.adjust_brightness(V.adjust_hue(V.adjust_saturation(x / 255, 1.3), 1 / 3), 1.2)
    grey = 1.2 * torch.einsum("nchw,c->nhw", x / 255, torch.tensor(LUMA)).mean()
    torch.testing.assert_close(y, (reference - grey) * 1.2 + grey, rtol=0, atol=1e-3)


def test_blur_leaves_colours_and_the_edges_of_what_is_erased():
    x = noise(1)
    reference = V.gaussian_blur(single(x, 0.7, **COLOURS), [11, 11], [1.5 * 0.7])
    torch.testing.assert_close(single(x, 0.7, blur=1.5, **COLOURS), reference, rtol=0, atol=5e-4)
    white = torch.full((50, 3, 24, 24), 255, dtype=torch.uint8)
    sharp = only(24, erase=1.0)(white, generator=seeded())
    torch.testing.assert_close(only(24, erase=1.0, blur=2.0)(white, generator=seeded()), sharp, rtol=0, atol=1e-5)


# --- what is drawn: each number for itself, each chance as declared


def numbers_of(name: str) -> set[tuple[int, str]]:
    """The random numbers that matter if this change alone is on: columns of draws, and which half of their bits."""
    x, draws = smooth(24).expand(16, -1, -1, -1), torch.rand(16, DRAWS, generator=seeded())
    hold = {"erase": 1.0, "erase_area": 0.0}  # erases nothing but draws its numbers, before those of the colours
    augment, found = only(24, **({} if name == "erase" else hold), **{name: STRENGTHS[name]}), set()
    views = augment(x, draws=draws)
    for column, half in product(range(DRAWS), ("upper", "lower")):
        other = draws.clone()
        step, u = (1, draws[:, column]) if half == "upper" else (FINER, draws[:, column] * FINER)
        other[:, column] = (u.floor() + (u % 1 + 0.5) % 1) / step  # half the range away; the other half's bits stay
        if (augment(x, draws=other) - views).abs().max() > 0.02:
            found.add((column, half))
    return found


def test_every_change_draws_numbers_of_its_own():
    found = {name: numbers_of(name) for name in STRENGTHS}
    assert found.pop("zoom_out") == found["zoom_in"]  # the same size and place of the view
    found["aspect"] -= found["zoom_in"]  # which also changes what the place means
    counts = {name: len(numbers) for name, numbers in found.items()}
    assert counts == dict.fromkeys(found, 1) | {"zoom_in": 3, "shift": 2, "erase": 5}
    assert len(set.union(*found.values())) == sum(counts.values()) == DRAWS + 3


def test_both_halves_of_a_draw_are_uniform_and_independent():
    draws = torch.rand(20_000, generator=seeded(7))
    halves = draws.numpy(), (draws * FINER % 1).numpy()
    assert all(stats.kstest(half, "uniform").pvalue > 1e-3 for half in halves)
    assert abs(stats.spearmanr(*halves).statistic) < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("name", ["flip", "grey", "erase"])
def test_chances_are_as_declared(name):
    x = noise(1)
    below, above = (single(x, u, **{name: 0.3}) for u in (0.299, 0.301))
    torch.testing.assert_close(above, only(24)(x), rtol=0, atol=1e-4)
    assert not torch.allclose(below, above, atol=0.1)


# --- erasing


def erased(size: int = 32, n: int = 2000, **strengths) -> torch.Tensor:
    """Which pixels [n, size, size] of white photos are erased."""
    white = torch.full((n, 3, 4, 4), 255, dtype=torch.uint8)
    y = replace(Augment(size).plain(), **strengths)(white, generator=seeded())
    gone = (y == 0).all(1)  # the mean colour
    assert (y.amin(1)[~gone] > 2.24).all()  # all else is white, 2.249 in red
    return gone


def test_erased_is_one_rectangle_of_the_mean_colour():
    found = erased(erase=1.0, n=100)
    assert found.any((1, 2)).all()
    for gone in found:
        rows, columns = gone.any(1), gone.any(0)
        assert torch.equal(gone, rows[:, None] & columns)
        assert all(side.nonzero().flatten().diff().eq(1).all() for side in (rows, columns))


def test_small_and_no_area_are_kept():
    assert erased(erase=1.0, erase_area=0.01, size=64, n=400).float().mean((1, 2)).max() <= 0.01 + 0.006
    assert not erased(erase=1.0, erase_area=0.0, n=400).any()


def test_a_view_is_the_same_alone_together_and_in_any_order():
    x, draws = noise(6, 40, 40), torch.rand(6, DRAWS, generator=seeded())
    augment = Augment(32, **STRENGTHS)
    views = augment(x, draws=draws)
    for rows in ([4], [4, 1], [5, 4, 3, 2, 1, 0]):
        torch.testing.assert_close(augment(x[rows], draws=draws[rows]), views[rows], rtol=0, atol=1e-4)


# --- errors


def test_other_dtypes_are_refused():
    for dtype in (torch.float32, torch.int64):
        with pytest.raises(TypeError, match=rf"uint8 photos \(0 to 255\), got {dtype}; pass TensorCache.batch"):
            Augment(8)(noise(1).to(dtype))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3), (8,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=rf"takes a batch \[N, 3, H, W\], got \[{', '.join(map(str, shape))}\]"):
        Augment(8)(torch.zeros(shape, dtype=torch.uint8))
