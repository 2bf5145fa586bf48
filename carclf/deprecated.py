"""Names of version 0.1 that still work, each with a DeprecationWarning that names the new one; all go in 0.3.

Only attributes of `carclf` and arguments are kept, not the paths of modules: `from carclf.classifier import Card` is
now `from carclf.model.card import Card`.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

# What was an attribute of `carclf` itself, by the module that has it now.
MOVED = {
    "brands": "parse_name owner_of",
    "data.photos": "Limits",
    "data.manifest": "Report read_table read_test set_aside summary usable",
    "data.download": "unpack",
    "model.backbones": "blocks",
    "train.fit": "score_splits",
    "train.lr_finder": "RangeTest",
    "metrics": "brand_report confused_pairs confusion metrics_table by_seen_model compare save_predictions"
    " calibration_error_interval expected_calibration_error fit_temperature reliability_table"
    " choose_threshold decisions operating_points promised threshold_table"
    " apply_corrections confident_mistakes highest_losses label_suspects save_suspects shares_on",
    "report.page": "Section write_report",
    "plot": "overlay_page",
    "demo.folder": "car_boxes",
}
RENAMED = {"settle": "calibrate_on_valid", "by_novelty": "by_seen_model"}
REMOVED = {
    "Novelty": "carclf.model.ood.OodDetector replaces it",
    "novelty_metrics": "it is ood_metrics in experiments/ood.py",
    "inside_share": "it is in experiments/grad_cam.py",
    "save_results": "carclf.evaluate writes the results",
    "rescale": "divide the logits by the temperature",
    "risk_coverage_area": "carclf.plot.risk_coverage draws the curve",
}
MODULES = dict(photos="data.photos", manifest="data.manifest", splits="data.splits", cache="data.cache")
MODULES |= dict(augment="model.augment", models="model.backbones", devices="model.device", novelty="model.ood")
MODULES |= dict(classifier="model.classifier", explain="model.gradcam", recipes="train.recipe", training="train.fit")
MODULES |= dict(
    engine="train.engine", dataset="train.batches", evaluation="metrics.scores", shares="metrics.prevalence"
)
MODULES |= dict(thresholds="metrics.thresholds", calibration="metrics.calibration", mistakes="metrics.label_errors")
MODULES |= dict(plots="plot.training", evaluation_plots="plot.evaluation", galleries="plot.photos")
MODULES |= dict(style="plot.style", widgets="report.widgets", assessment="report.evaluate")


def old_attribute(name: str) -> object:
    """What `carclf.<name>` was in version 0.1; raises AttributeError if there is no such name, or it was removed."""
    current = RENAMED.get(name, name)
    place = next((module for module, names in MOVED.items() if current in names.split()), None)
    if name in MODULES:
        found, current = import_module(f"carclf.{MODULES[name]}"), MODULES[name]
    elif place is not None:
        found, current = getattr(import_module(f"carclf.{place}"), current), f"{place}.{current}"
    elif current != name:
        found = getattr(import_module("carclf"), current)
    else:
        removed = f": removed, {REMOVED[name]}" if name in REMOVED else ""
        raise AttributeError(f"module 'carclf' has no attribute {name!r}{removed}")
    _warn(f"carclf.{name}", f"carclf.{current}", stacklevel=4)
    return found


def renamed_arguments(**current: str) -> Callable[[Callable], Callable]:
    """Let a function take arguments by their old names too: ``@renamed_arguments(old="new")``."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for old in kwargs.keys() & current.keys():
                _warn(f"{function.__qualname__.removesuffix('.__init__')}({old}=…)", f"{current[old]}=…", stacklevel=3)
                kwargs[current[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapper

    return decorate


def callable_package(package: str, function: str) -> None:
    """Let a package be called as the function that had its name: `carclf.metrics(…)` is `carclf.compute_metrics(…)`."""

    class CallablePackage(ModuleType):
        def __call__(self, *args, **kwargs):
            _warn(f"{package}(…)", f"carclf.{function}(…)", stacklevel=3)
            return getattr(import_module("carclf"), function)(*args, **kwargs)

    sys.modules[package].__class__ = CallablePackage


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=stacklevel)
