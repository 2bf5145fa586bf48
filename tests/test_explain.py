import numpy as np
import pytest
import torch
from torch import nn

import carclf
from carclf.classifier import Card, Classifier
from carclf.explain import grad_cam, last_map

CLASSES = ("Audi", "BMW", "Ford", "Volvo")


def classifier_of(backbone, size=64, head="linear"):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="random weights"):
        model = carclf.build_model(backbone, len(CLASSES), weights=None, head=head)
    return Classifier(model, Card(backbone, head, CLASSES, size=size, cache_size=80), "cpu")


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 80, 80), dtype=np.uint8)


@pytest.fixture(scope="module", params=["resnet50", "efficientnet_lite0", "convnext_atto"])
def classifier(request):
    return classifier_of(request.param)


class Corner(nn.Module):
    """Brand 0 is red and brand 1 is blue, in the upper left quarter; nothing else is looked at."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
            self.fc.weight[:] = torch.eye(2)

    def forward(self, x):
        seen = self.conv(x).relu()
        mask = torch.zeros_like(seen)
        mask[:, :, : seen.shape[2] // 2, : seen.shape[3] // 2] = 1
        return self.fc((seen * mask).mean((2, 3)))


def test_maps_show_what_the_network_looks_at():
    """Where the colour is, where it is looked at or not: the features count, with the weight of their channel."""
    classifier = Classifier(Corner(), Card("resnet50", "linear", ("Audi", "BMW"), size=16, cache_size=16), "cpu")
    photos = np.zeros((2, 3, 16, 16), np.uint8)
    photos[0, 0, :8, :4] = 255  # red in the corner
    photos[1, 2, :4, :8] = 255  # blue in it
    maps = grad_cam(classifier, photos)
    expected = np.zeros((2, 16, 16), np.float32)
    expected[0, :8, :4] = expected[1, :4, :8] = 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    other = grad_cam(classifier, photos, targets=[1, 0])
    np.testing.assert_allclose(other, 0)  # nothing speaks for the other brand


def test_maps_have_the_size_of_the_photos_and_lie_between_0_and_1(classifier, photos):
    maps = grad_cam(classifier, photos)
    assert maps.shape == (5, 80, 80)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert set(np.round(maps.max((1, 2)), 6)) <= {0, 1}
    assert maps.max() == pytest.approx(1)
    np.testing.assert_allclose(grad_cam(classifier, photos[2:3]), maps[2:3], atol=1e-3)


def test_the_predicted_brand_is_the_default(classifier, photos):
    predicted = classifier.probabilities(photos).argmax(1)
    np.testing.assert_allclose(grad_cam(classifier, photos), grad_cam(classifier, photos, predicted), atol=1e-6)
    assert not np.allclose(grad_cam(classifier, photos, (predicted + 1) % 4), grad_cam(classifier, photos))


def test_nothing_about_the_model_changes(classifier, photos):
    model = classifier.model
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grad_cam(classifier, photos)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module.training or module._forward_hooks for module in model.modules())
    model.requires_grad_(True)
    with torch.no_grad():
        grad_cam(classifier, photos)
        assert not torch.is_grad_enabled()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_maps_equal_captums(classifier, photos):
    attr = pytest.importorskip("captum.attr", reason="captum, the reference, is not installed")
    mean, std = (torch.tensor(v)[:, None, None] for v in carclf.models.normalisation(classifier.card.backbone))
    x = nn.functional.interpolate(torch.from_numpy(photos).float(), size=64, mode="bilinear")
    x, targets = (x / 255 - mean) / std, [0, 1, 2, 3, 0]
    layer = carclf.blocks(classifier.model)[last_map(classifier.model, x)]
    reference = attr.LayerGradCam(classifier.model, layer).attribute(x, targets, relu_attributions=True)
    reference = attr.LayerAttribution.interpolate(reference, (80, 80), "bilinear")[:, 0].detach()
    reference = reference / reference.amax((1, 2), keepdim=True).clamp_min(1e-30)
    np.testing.assert_allclose(grad_cam(classifier, photos, targets), reference, atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "block"),
    [
        ("resnet50", "layer4"),
        ("efficientnet_lite0", "bn2"),
        ("convnext_atto", "stages.3"),
        ("mobilenetv3_small_050", "blocks.5"),  # conv_head comes after pooling
        ("regnetx_002", "s4"),
        ("vgg11", "features.18"),  # followed by an activation in place
    ],
)
def test_the_last_map_of_each_backbone_is_found(backbone, block, photos):
    classifier = classifier_of(backbone)
    assert last_map(classifier.model, torch.zeros(1, 3, 64, 64)) == block
    assert grad_cam(classifier, photos[:1]).shape == (1, 80, 80)


@pytest.mark.parametrize(("backbone", "size"), [("vit_tiny_patch16_224", 224), ("swin_tiny_patch4_window7_224", 224)])
def test_a_transformer_is_refused(backbone, size, photos):
    with pytest.raises(ValueError, match=r"needs a map of convolutional features .* such as resnet50"):
        grad_cam(classifier_of(backbone, size), photos[:1])


@pytest.mark.parametrize("targets", [[0], [0, 1, 2, 3, 4], [0, 0, 0, 0, -1], [0.0] * 5])
def test_targets_that_are_no_brands_are_refused(targets, photos):
    with pytest.raises(ValueError, match=r"one whole number from 0 to 3 for each of the 5 photos.*classes.index"):
        grad_cam(classifier_of("efficientnet_lite0"), photos, targets)
