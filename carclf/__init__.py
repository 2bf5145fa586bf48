"""carclf: recognise a car's brand in a photo.

The names below are loaded on first use, so that reading file names does not wait for torch.
"""

from importlib import import_module

_HOMES = {
    "brands": ("parse_brand", "parse_name", "brand_table", "owner_of"),
    "photos": ("Limits", "PhotoError", "read_photo"),
    "fingerprints": ("duplicates",),
    "manifest": ("Report", "read_table", "read_test", "report", "scan", "set_aside", "summary", "usable"),
    "splits": ("leakage", "split"),
    "cache": ("TensorCache",),
    "augment": ("Augment",),
    "models": ("blocks", "build_model"),
    "classifier": ("Classifier",),
    "recipes": ("RECIPES", "Recipe", "Stage"),
    "training": ("Run", "fit"),
    "split_scores": ("score_splits",),
    "lr_finder": ("RangeTest", "find_lr"),
    "evaluation": (
        "brand_report",
        "confused_pairs",
        "confusion",
        "metrics",
        "metrics_table",
        "save_predictions",
        "save_results",
    ),
    "comparisons": ("by_novelty", "compare"),
    "calibration": (
        "calibration_error_interval",
        "expected_calibration_error",
        "fit_temperature",
        "reliability_table",
        "rescale",
    ),
    "thresholds": ("choose_threshold", "operating_points", "promised", "risk_coverage_area", "threshold_table"),
    "mistakes": ("apply_corrections", "confident_mistakes", "highest_losses", "label_suspects", "save_suspects"),
    "shares": ("brand_shares", "shares_on"),
    "html_page": ("Section",),
    "report_page": ("write_report",),
    "novelty": ("Novelty", "novelty_metrics"),
    "explain": ("grad_cam",),
    "explain_page": ("inside_share", "overlay_page"),
    "assessment": ("decisions", "evaluate", "settle"),
    "demo": ("car_boxes", "draw_demo"),
    "unpacking": ("unpack",),
    "downloading": ("download",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = (
    *_HOMES,
    *("cards", "checkpoints", "dataset", "devices", "engine", "evaluation_plots", "galleries", "inspection"),
    *("intervals", "mixing", "objective", "plots", "processes", "records", "style", "tensors", "widgets"),
)

__version__ = "0.1.0"
__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name in _HOME_OF:
        value = getattr(import_module(f"carclf.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"carclf.{name}")
    raise AttributeError(f"module 'carclf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
