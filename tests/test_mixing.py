import pytest
import torch

from carclf.mixing import DRAWS, Mixture

N, SIZE = 400, 24


def mixture(mixup, cutmix):
    return Mixture.of(torch.rand(N, DRAWS, generator=torch.Generator().manual_seed(0)), mixup, cutmix, SIZE)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_the_labels_share_is_the_pictures(mixup, cutmix):
    mixed = mixture(mixup, cutmix)
    own = mixed(torch.ones(N, 3, SIZE, SIZE), torch.zeros(N, 3, SIZE, SIZE))
    torch.testing.assert_close(own.mean((1, 2, 3)), mixed.share, rtol=1e-5, atol=1e-5)
    assert own.amin() >= 0
    assert own.amax() <= 1


def test_mixup_blends_all_pixels_and_cutmix_covers_a_box():
    photos, partners = torch.ones(N, 3, SIZE, SIZE), torch.zeros(N, 3, SIZE, SIZE)
    blended = mixture(0.4, 0)(photos, partners)
    assert torch.equal(blended.amin((1, 2, 3)), blended.amax((1, 2, 3)))
    assert set(mixture(0, 1.0)(photos, partners).unique().tolist()) == {0.0, 1.0}
    both = mixture(0.4, 1.0)(photos, partners)
    cut = ((both == 0) | (both == 1)).flatten(1).all(1).float().mean()
    assert 0.4 < cut < 0.6  # either way befalls half of the photos


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_follow_the_beta_distribution(alpha):
    share = mixture(alpha, 0).share
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_a_part_of_a_mixture_mixes_like_the_whole():
    mixed, photos = mixture(0.4, 1.0), torch.rand(N, 3, SIZE, SIZE)
    part = torch.tensor([7, 3, 300])
    torch.testing.assert_close(mixed[part](photos[part], photos.flip(0)[part]), mixed(photos, photos.flip(0))[part])
