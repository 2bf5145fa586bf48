"""Numbers -> words for people: per cents, counts, scores and promises."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def percent(share: float | None, digits: int = 0) -> str:
    """A share of 0..1 for people, "98 %" with a no-break space; "–" if it is missing."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def least_percent(share: float) -> str:
    """A share that is promised or proven, never rounded up: 97.5 % and 97.59 % are "97.5 %", 80 % is "80 %"."""
    tenths = math.floor(1000 * share + 1e-6)
    return percent(tenths / 1000, 1 if tenths % 10 else 0)


def listed(counts: dict[str, int], most: int = 10) -> str:
    """ "Zeekr (12 photos), Tank (1 photo)", most photos first; what is beyond `most` is counted."""
    texts = [f"{name} ({n:,} photo{'s' if n != 1 else ''})" for name, n in counts.items()]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def metrics_table(results: dict[str, Any]) -> pd.DataFrame:
    """The dict of `compute_metrics` as text for people, in the column ``value``."""
    not_scored = [k for k in ("missing", "unreadable", "unlabelled", "unknown_brand", "too_small") if k in results]
    rows = {
        "photos scored": f"{results['n']:,}, of {results['vehicles']:,} vehicles",
        "not scored": ", ".join(f"{k.replace('_', ' ')}: {results[k]:,}" for k in not_scored if results[k]) or "none",
    }
    if results.get("unknown_brands"):
        rows["brands it does not know"] = listed(results["unknown_brands"])
    if results.get("right_by_another_name"):
        rows["right under another name"] = f"{results['right_by_another_name']:,}, as a Hummer H1 is also an AM General"
    for name in ("accuracy", "top5_accuracy", "macro_recall", "macro_f1", "mean_confidence"):
        low, high = results.get(f"{name}_low"), results.get(f"{name}_high")
        interval = "" if low is None else f", 95 % interval {percent(low, 1)} to {percent(high, 1)}"
        rows[name.replace("_", " ")] = percent(results[name], 1) + interval
    return pd.Series(rows, name="value").to_frame()


def promise_text(promise: dict[str, Any] | None, threshold: float = 0.0) -> str:
    """What the accepted answers of a model are worth, in words: of its card's `promise` and `threshold`.

    Nothing is promised if the threshold is not the promise's; 0 stands for that one.
    """
    if promise is None or (promise["kept"] and threshold not in (0, promise["threshold"])):
        if not threshold:
            return "No threshold was chosen, so nothing is promised: treat every answer as a guess."
        return f"The threshold of {threshold:.2f} was set by hand, so nothing is promised."
    accuracy, level = (least_percent(promise[name]) for name in ("accuracy", "confidence_level"))
    if promise["kept"]:
        scope = f", {promise['scope']}" if promise.get("scope") else ""
        return (
            f"At least {accuracy} of the accepted answers are right{scope} (proven on valid with {level} confidence). "
            "This holds for photos of one car whose brand the model knows."
        )
    vehicles, needed = promise.get("vehicles"), promise.get("needed")
    if vehicles is None:  # a card of an older version
        seen = f"no threshold is proven to reach {accuracy} on valid, and {promise['threshold']:.2f} comes nearest"
        helps = "More vehicles in valid or a better model would help."
    elif not vehicles:
        seen = f"valid has no photo of a brand that the model knows, so no threshold is proven to reach {accuracy}"
        helps = f"Valid needs at least {needed} cars for that."
    else:
        right, coverage = (percent(promise[name]) for name in ("right", "coverage"))
        seen = (
            f"no threshold is proven to reach {accuracy} on {_cars(vehicles)} of valid; "
            f"the best ({promise['threshold']:.2f}) is right on {right} of the {coverage} it answers "
            f"({_cars(round(promise['coverage'] * vehicles))})"
        )
        helps = "At that rate more cars would not help: it takes a better model, or a lower accuracy to promise."
        if needed is not None:
            helps = f"At that rate valid needs {_cars(needed)}, {needed - vehicles:,} more."
    return f"Nothing is promised: {seen}. Treat every answer as a guess. {helps}"


def _cars(n: int) -> str:
    return f"{n:,} car" if n == 1 else f"{n:,} cars"
