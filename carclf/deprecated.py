"""Names of version 0.1 that still work, each with a DeprecationWarning that names the new one; all go in 0.3."""

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
    "model.ood": "OodDetector",
    "train.fit": "score_splits",
    "train.lr_finder": "RangeTest",
    "metrics.scores": "brand_report confused_pairs confusion metrics_table by_seen_model compare save_predictions",
    "metrics.calibration": "calibration_error_interval expected_calibration_error fit_temperature reliability_table",
    "metrics.thresholds": "choose_threshold decisions operating_points promised threshold_table",
    "metrics.label_errors": "apply_corrections confident_mistakes highest_losses label_suspects save_suspects",
    "metrics.prevalence": "shares_on",
    "report.evaluate": "calibrate_on_valid",
    "report.page": "Section write_report",
    "plot.photos": "overlay_page",
}
RENAMED = {"settle": "calibrate_on_valid", "by_novelty": "by_seen_model", "Novelty": "OodDetector"}
MODULES = {
    "photos": "data.photos",
    "manifest": "data.manifest",
    "splits": "data.splits",
    "models": "model.backbones",
    "devices": "model.device",
    "classifier": "model.classifier",
    "mistakes": "metrics.label_errors",
    "plots": "plot.training",
    "evaluation_plots": "plot.evaluation",
    "galleries": "plot.photos",
    "widgets": "report.widgets",
}


def old_attribute(name: str) -> object:
    """What `carclf.<name>` was in version 0.1; raises AttributeError where there was no such name."""
    if name in MODULES:
        _warn(f"carclf.{name}", f"carclf.{MODULES[name]}", stacklevel=4)
        return import_module(f"carclf.{MODULES[name]}")
    current = RENAMED.get(name, name)
    for module, names in MOVED.items():
        if current in names.split():
            _warn(f"carclf.{name}", f"carclf.{module}.{current}", stacklevel=4)
            return getattr(import_module(f"carclf.{module}"), current)
    raise AttributeError(f"module 'carclf' has no attribute {name!r}")


def renamed_arguments(**current: str) -> Callable[[Callable], Callable]:
    """Let a function take arguments by their old names too: ``@renamed_arguments(old="new")``."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for old in kwargs.keys() & current.keys():
                _warn(f"{function.__qualname__}({old}=…)", f"{current[old]}=…", stacklevel=3)
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
