"""Tables -> matplotlib Axes and Figures. Must not know torch, models or training."""

# ruff: noqa: F401 - the names below are for users

from carclf.plot.cars import draw_cars, draw_photos
from carclf.plot.evaluation import (
    brand_scores,
    brand_shares,
    confusion_matrix,
    confusion_zoom,
    reliability,
    risk_coverage,
    threshold_curve,
)
from carclf.plot.photos import (
    confused_page,
    duplicates_page,
    overlay_page,
    photo_grid,
    prediction_page,
    sample_photos,
    scene_page,
)
from carclf.plot.style import alt_text, percent, rate, verdict
from carclf.plot.timeline import timeline
from carclf.plot.training import (
    brand_counts,
    photo_sizes,
    range_test,
    split_counts,
    split_scores,
    training_curves,
    training_steps,
)
