"""carclf: recognise a car's brand in a photo.

The names below are loaded on first use, so that reading file names does not wait for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "brands": ("brand_table", "parse_brand"),
    "data.photos": ("PhotoError", "read_photo"),
    "data.manifest": ("describe", "scan"),
    "data.duplicates": ("duplicates",),
    "data.splits": ("leakage", "split"),
    "data.cache": ("TensorCache",),
    "data.download": ("download",),
    "model.augment": ("Augment",),
    "model.backbones": ("build_model",),
    "model.classifier": ("Classifier",),
    "model.detector": ("find_cars",),
    "model.gradcam": ("grad_cam",),
    "train.recipe": ("RECIPES", "Recipe", "Stage"),
    "train.run": ("Run",),
    "train.fit": ("fit",),
    "train.lr_finder": ("find_lr",),
    "metrics.scores": ("compute_metrics",),
    "metrics.prevalence": ("brand_shares",),
    "video.predict": ("predict_video",),
    "report.evaluate": ("calibrate_on_valid", "evaluate"),
    "demo.folder": ("draw_demo", "photos_or_drawn"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
_FOLDERS = ("brands", "data", "demo", "metrics", "model", "plot", "report", "train", "video")

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(import_module(f"carclf.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _FOLDERS:
        return import_module(f"carclf.{name}")
    from carclf.deprecated import old_attribute

    return old_attribute(name)


def __dir__() -> list[str]:
    return [*__all__, *_FOLDERS]
