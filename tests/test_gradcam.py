import copy
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import carclf
from carclf.data.cache import to_square
from carclf.model.backbones import normalisation
from carclf.model.card import Card
from carclf.model.classifier import Classifier
from carclf.model.gradcam import grad_cam

CLASSES = ("Audi", "BMW", "Ford", "Volvo")
LAST_LAYERS = {  # whose output is the last map: 2 × 2 for photos of 64 pixels
    "resnet50": "layer4",
    "efficientnet_lite0": "bn2",
    "convnext_atto": "stages.3",
    "mobilenetv3_small_050": "blocks.5",  # conv_head comes after pooling
    "regnetx_002": "s4",
}


def classifier_of(backbone, size=64):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="random weights"):
        model = carclf.build_model(backbone, len(CLASSES), weights=None, head="linear")
    return Classifier(model, Card(backbone, "linear", CLASSES, size=size, cache_size=80), "cpu")


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 80, 80), dtype=np.uint8)


@pytest.fixture(scope="module", params=LAST_LAYERS)
def classifier(request):
    return classifier_of(request.param)


class Corner(nn.Module):
    """Brand 0 is red and brand 1 is blue, in the upper left quarter; nothing else is looked at."""

    num_features = 2

    def forward_features(self, x):
        return x[:, [0, 2]].relu()

    def forward_head(self, x):
        corner = x[:, :, : x.shape[2] // 2, : x.shape[3] // 2]
        return corner.mean((2, 3))


def test_maps_show_what_the_network_looks_at():
    """Where the colour is, looked at or not: the features count, with the weight of their channel."""
    classifier = Classifier(Corner(), Card("resnet50", "linear", ("Audi", "BMW"), size=16, cache_size=16), "cpu")
    photos = np.zeros((2, 3, 16, 16), np.uint8)
    photos[0, 0, :8, :4] = 255  # red in the corner
    photos[1, 2, :4, :8] = 255  # blue in it
    np.testing.assert_allclose(grad_cam(classifier, photos), photos.max(1) / 255, atol=1e-6)
    np.testing.assert_allclose(grad_cam(classifier, photos, targets=[1, 0]), 0)  # nothing speaks for the other brand


def test_maps_have_the_size_of_the_photos_lie_between_0_and_1_and_explain_the_predicted_brand(classifier, photos):
    maps = grad_cam(classifier, photos)
    assert maps.shape == (5, 80, 80)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert set(np.round(maps.max((1, 2)), 6)) <= {0, 1}
    assert maps.max() == pytest.approx(1)
    np.testing.assert_allclose(grad_cam(classifier, photos[2:3]), maps[2:3], atol=1e-3)
    predicted = classifier.outputs(photos)[0].argmax(1)
    np.testing.assert_allclose(grad_cam(classifier, photos, predicted), maps, atol=1e-6)
    assert not np.allclose(grad_cam(classifier, photos, (predicted + 1) % 4), maps)


def test_nothing_about_the_model_changes(classifier, photos):
    model = classifier.model
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    grad_cam(classifier, photos)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module.training or module._forward_hooks for module in model.modules())
    model.requires_grad_(True)
    with torch.no_grad():
        grad_cam(classifier, photos)
        assert not torch.is_grad_enabled()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_maps_equal_captums(classifier, photos):
    attr = pytest.importorskip("captum.attr", reason="captum, the reference, is not installed")
    mean, std = (torch.tensor(v)[:, None, None] for v in normalisation(classifier.card.backbone))
    x = nn.functional.interpolate(torch.from_numpy(photos).float(), size=64, mode="bilinear")
    x, targets = (x / 255 - mean) / std, [0, 1, 2, 3, 0]
    layer = classifier.model.get_submodule(LAST_LAYERS[classifier.card.backbone])
    reference = attr.LayerGradCam(classifier.model, layer).attribute(x, targets, relu_attributions=True)
    assert reference.shape == (5, 1, 2, 2)
    reference = attr.LayerAttribution.interpolate(reference, (80, 80), "bilinear")[:, 0].detach()
    reference = reference / reference.amax((1, 2), keepdim=True).clamp_min(1e-30)
    np.testing.assert_allclose(grad_cam(classifier, photos, targets), reference, atol=1e-3)


def test_photos_are_taken_as_predict_takes_them(classifier, photo_folder):
    manifest = carclf.scan(photo_folder)
    expected = grad_cam(classifier, np.stack([to_square(path, 80) for path in manifest.path]))
    for photos in (manifest, manifest.path.tolist(), photo_folder):
        np.testing.assert_array_equal(grad_cam(classifier, photos), expected)
    first = manifest.path[0]
    np.testing.assert_allclose(grad_cam(classifier, first), expected[:1], atol=1e-3)


def test_photos_that_are_not_read_have_maps_of_zeros_and_keep_their_places(photo_folder, tmp_path):
    classifier, manifest = classifier_of("efficientnet_lite0"), carclf.scan(photo_folder).head(3)
    (tmp_path / "Audi_A4_1.jpg").write_text("no photo")
    paths = [tmp_path / "Audi_A4_1.jpg", *manifest.path]
    targets = [3, 0, 1, 2]
    maps = grad_cam(classifier, paths, targets)
    expected = grad_cam(classifier, manifest, targets[1:])
    assert not maps[0].any() and expected.any()
    np.testing.assert_array_equal(maps[1:], expected)
    set_aside = pd.DataFrame({"path": paths[1:], "problem": [None, "contradiction: two brands", None]})
    maps = grad_cam(classifier, set_aside, targets[1:])
    assert not maps[1].any()
    np.testing.assert_allclose(maps[[0, 2]], expected[[0, 2]], atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        *product(["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "coat_tiny"], [224]),
        ("efficientnet_lite0", 32),
    ],
)
def test_a_transformer_or_a_map_of_one_pixel_is_refused(backbone, size, photos):
    with pytest.raises(
        ValueError, match=r"needs a map of convolutional features larger than 1 × 1 .* such as resnet50"
    ):
        grad_cam(classifier_of(backbone, size), photos[:1])


@pytest.mark.parametrize("targets", [[0], [0, 1, 2, 3, 4], [0, 0, 0, 0, -1], [0.0] * 5])
def test_targets_that_are_no_brands_are_refused(targets, photos):
    with pytest.raises(ValueError, match=r"one whole number from 0 to 3 for each of the 5 photos.*classes.index"):
        grad_cam(classifier_of("efficientnet_lite0"), photos, targets)
