"""Backbones through timm, the head, which blocks train and with which learning rate."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from carclf.errors import did_you_mean
from carclf.model.augment import IMAGENET_MEAN, IMAGENET_STD
from carclf.model.weights import lite0_state_dict, read_state_dict

# tv_in1k is torchvision's IMAGENET1K_V1, tensor by tensor. V2 has poorer frozen features and lower confidences
# (arXiv 2010.16402).
TIMM_NAMES = {"resnet50": "resnet50.tv_in1k", "efficientnet_lite0": "tf_efficientnet_lite0"}


def build_model(
    backbone: str, n_classes: int, weights: str | os.PathLike | None = "imagenet", head: str | None = None
) -> nn.Module:
    """A pretrained backbone with a new head.

    Parameters
    ----------
    backbone : "resnet50" (torchvision's, with `.fc` replaced), "efficientnet_lite0" (its weights come with the
        installation) or a timm model that ends in one linear layer; some transformers take one photo size only
    n_classes : int >= 2
    weights : "imagenet", the path of a state dict (.safetensors, or .pth, read without executing anything), or None
        for random weights, with a warning
    head : "mlp" for `Linear BN ReLU Dropout` twice and a last `Linear`, "linear" for one layer
        Default: "mlp" for resnet50, so that files of that shape load, and "linear" for all others.

    Returns
    -------
    nn.Module
        From float32 [N, 3, H, W], normalised as `normalisation(backbone)` says, to logits, float32 [N, n_classes].

    Raises
    ------
    ValueError
        For an unknown backbone or head.
    OSError
        If the weights are not available; the message names the ways out.
    """
    if weights is None:
        warnings.warn(f"{backbone} starts from random weights, as requested; expect far worse results", stacklevel=2)
    model = _architecture(backbone, n_classes, head, pretrained=weights == "imagenet")
    if weights not in ("imagenet", None):
        _load_all_but_head(model, backbone, Path(weights))
    return model


def empty_model(backbone: str, n_classes: int, head: str | None = None) -> nn.Module:
    """The architecture alone, for weights that are loaded into it next."""
    return _architecture(backbone, n_classes, head)


def normalisation(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the backbone's input, three floats each for RGB on a scale of 0 to 1."""
    if backbone == "efficientnet_lite0":  # TensorFlow's (x - 127) / 128
        return (127 / 255,) * 3, (128 / 255,) * 3
    config = timm.get_pretrained_cfg(_timm_name(backbone))
    return (IMAGENET_MEAN, IMAGENET_STD) if config is None else (tuple(config.mean), tuple(config.std))


def head_name(backbone: str, head: str | None) -> str:
    """The head that `head` stands for: "mlp" or "linear"."""
    return head or ("mlp" if backbone == "resnet50" else "linear")


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model that hold parameters, by name, from the input to the head.

    resnet50: conv1 bn1 layer1 layer2 layer3 layer4 fc. In other models the children of a `blocks`, `stages` or
    `features` container count one by one: conv_stem bn1 blocks.0 … blocks.6 conv_head bn2 classifier.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if name in ("blocks", "stages", "features") and isinstance(child, (nn.Sequential, nn.ModuleList)):
            parts |= {f"{name}.{k}": part for k, part in child.named_children()}
        else:
            parts[name] = child
    return {name: part for name, part in parts.items() if next(part.parameters(), None) is not None}


@functools.lru_cache
def part_names(backbone: str) -> tuple[str, ...]:
    """The names that `blocks` gives for a backbone, without its weights; ValueError if it cannot be used."""
    try:
        with torch.device("meta"):  # neither memory nor random numbers
            model = empty_model(backbone, 2)
    except RuntimeError:  # some networks compute while they are built
        model = empty_model(backbone, 2)
    return tuple(blocks(model))


def no_part(unfreeze: str, names: Iterable[str]) -> str:
    """Why a network does not have this part, and what to write instead."""
    near = did_you_mean(unfreeze, ["head", "all", *names])
    return (
        f"unfreeze={unfreeze!r} is no part of the network{near or '; choose head, all or one of: ' + ', '.join(names)}"
    )


def only_size(backbone: str) -> int | None:
    """The only photo size that some transformers take, or None."""
    config = timm.get_pretrained_cfg(_timm_name(backbone))
    return config.input_size[1] if config is not None and config.fixed_input_size else None


def set_trainable(model: nn.Module, unfreeze: str) -> None:
    """Freeze everything below one block, and put the rest into training mode.

    Frozen parts get no gradient and stay in eval mode: `requires_grad=False` alone would let BatchNorm's running
    statistics drift.

    Parameters
    ----------
    unfreeze : "head" (the last part alone), "all", or the name of the lowest block to train, as `blocks` gives it

    Raises
    ------
    ValueError
        For an unknown block.
    """
    parts = blocks(model)
    names = list(parts)
    first = {"head": names[-1], "all": names[0]}.get(unfreeze, unfreeze)
    if first not in parts:
        raise ValueError(no_part(unfreeze, names))
    model.requires_grad_(False).eval()
    for name in names[names.index(first) :]:
        parts[name].requires_grad_(True).train()
    if unfreeze == "all":  # parameters outside any block, such as a transformer's position embedding
        model.requires_grad_(True)


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Parameters that train, as groups for an optimizer.

    Parameters
    ----------
    weight_decay : of weights; norms, biases and other vectors have none
    layer_decay : learning rate of a block, divided by that of the block above it; the head has a factor of 1

    Returns
    -------
    list of dict with the keys params, weight_decay and lr_scale
    """
    level, level_of = 0, dict[int, int]()
    for part in blocks(model).values():
        level += any(p.ndim > 1 for p in part.parameters())  # a norm of its own belongs to the block before it
        level_of |= {id(p): level for p in part.parameters()}
    groups: dict[tuple[int, bool], list] = {}
    for p in model.parameters():  # parameters outside any block, such as a position embedding, count as the earliest
        if p.requires_grad:
            groups.setdefault((level_of.get(id(p), 1), p.ndim > 1 and id(p) in level_of), []).append(p)
    return [
        {"params": parameters, "weight_decay": weight_decay * is_weight, "lr_scale": layer_decay ** (level - own)}
        for (own, is_weight), parameters in groups.items()
    ]


def head_of(model: nn.Module, backbone: str) -> nn.Module:
    """The part that `build_model` has replaced: the classifier and nothing before it."""
    return model.get_submodule(_head_path(backbone))


def features(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the head takes, [N, n_features], for photos as the model takes them."""
    network: Any = model  # timm's models have methods that nn.Module does not declare
    return network.forward_head(network.forward_features(x), pre_logits=True)


def n_features(model: nn.Module, backbone: str) -> int:
    """How many features the head takes."""
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
    model = imagenet_model(backbone) if pretrained else timm.create_model(_timm_name(backbone))
    owner_path, _, name = _head_path(backbone).rpartition(".")
    old, owner = head_of(model, backbone), model.get_submodule(owner_path)
    # `features` must be what the last layer takes; MetaFormers have an MLP in between, LeViT's family a norm.
    direct = model.head_hidden_size == getattr(old, "in_features", None) and type(owner).__name__ != "NormLinear"
    if not isinstance(old, nn.Linear) or not direct:
        raise ValueError(f"backbone {backbone!r} does not end in one linear layer; choose another one from timm")
    new = mlp_head(old.in_features, n_classes) if kind == "mlp" else nn.Linear(old.in_features, n_classes)
    setattr(owner, name, new)
    return model


def _timm_name(backbone: str) -> str:
    name = TIMM_NAMES.get(backbone, backbone)
    if not timm.is_model(name):
        near = did_you_mean(backbone, [*TIMM_NAMES, *timm.list_models()])
        ours = ", ".join(repr(known) for known in TIMM_NAMES)
        raise ValueError(f"unknown backbone {backbone!r}; choose {ours} or a name from timm.list_models(){near}")
    architecture, _, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*") if tag else [name]
    if name not in tags:
        raise ValueError(f"unknown weights of backbone {backbone!r}; choose one of: {', '.join(tags) or architecture}")
    return name


def _head_path(backbone: str) -> str:
    """Where the last layer lives in the model, such as "fc" or "head.fc"; "", the model itself, if it has several."""
    config = timm.get_pretrained_cfg(_timm_name(backbone))
    return config.classifier if config is not None and isinstance(config.classifier, str) else ""


def imagenet_model(backbone: str) -> Any:
    """timm's model for 1,000 classes with its ImageNet weights."""
    name = _timm_name(backbone)
    if backbone == "efficientnet_lite0":
        model = timm.create_model(name)
        # The same network layer by layer under other names: the tensors match in order.
        model.load_state_dict(dict(zip(model.state_dict(), lite0_state_dict().values(), strict=True)))
        return model
    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:  # huggingface_hub raises either, depending on its version
        file = "a state dict for it"
        if backbone == "resnet50":
            file = "resnet50-0676ba61.pth from torchvision, or model.safetensors of timm/resnet50.tv_in1k,"
        raise OSError(
            f"the ImageNet weights of {backbone} could not be downloaded ({error}). Three ways out: "
            f"(1) bring {file} from a machine with network and give "
            "weights='path/to/the/file'; (2) backbone='efficientnet_lite0', whose weights are installed already; "
            "(3) weights=None for random weights, with far worse results."
        ) from error


def _load_all_but_head(model: nn.Module, backbone: str, path: Path) -> None:
    """Load a state dict without its head, which belongs to other classes."""
    state, own, head = read_state_dict(path), model.state_dict(), f"{_head_path(backbone)}."
    wanted = [k for k in own if not k.startswith(head)]
    unfit = [k for k in wanted if k not in state or state[k].shape != own[k].shape]
    if unfit:
        raise ValueError(
            f"{path} does not fit {backbone}: {len(unfit)} of {len(wanted)} tensors are missing or have another shape, "
            f"such as {unfit[0]!r}; give the state dict of the same backbone"
        )
    if broken := [k for k in wanted if not torch.isfinite(state[k]).all()]:
        raise ValueError(
            f"{path} holds values that are no numbers, in {len(broken)} of {len(wanted)} tensors, such as "
            f"{broken[0]!r}; give another state dict, or weights='imagenet'"
        )
    model.load_state_dict({k: state[k] for k in wanted}, strict=False)
