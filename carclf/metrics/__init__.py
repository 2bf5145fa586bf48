"""Predictions -> numbers. Must not know torch, models or plots."""

# ruff: noqa: F401 - the names below are for users

from carclf.deprecated import callable_package
from carclf.metrics.calibration import (
    calibration_error_interval,
    expected_calibration_error,
    fit_temperature,
    reliability_table,
)
from carclf.metrics.label_errors import (
    apply_corrections,
    confident_mistakes,
    highest_losses,
    label_suspects,
    save_suspects,
)
from carclf.metrics.prevalence import brand_shares, counted_shares, shares_on
from carclf.metrics.scores import (
    brand_report,
    by_seen_model,
    compare,
    compute_metrics,
    confused_pairs,
    confusion,
    is_right,
    save_predictions,
    scored,
)
from carclf.metrics.thresholds import (
    choose_threshold,
    decisions,
    no_promise,
    operating_points,
    promise,
    promised,
    threshold_table,
)
from carclf.metrics.words import metrics_table, percent, promise_text

callable_package(__name__, "compute_metrics")
