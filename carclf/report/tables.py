"""Tables for people who read a terminal: short names, per cents, decisions in words. Programs read the CSV."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from carclf.data.boxes import NO_CAR, SMALL
from carclf.errors import counted, shortened
from carclf.metrics.prevalence import resolution
from carclf.metrics.thresholds import decisions
from carclf.metrics.words import metrics_table, percent

NAME, PROBLEM = 40, 70  # letters of a name or a problem that are shown
NOT_CARS = {"unknown": "unlike its training photos", NO_CAR: NO_CAR}  # decisions that lead, and their reason
RIGHT_ALIGNED = ("sure", "share", "from", "to", "counted", "car", "n", "frames", "photos")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as aligned text with a header; "none" if there are none."""
    if not rows:
        return "none"
    names = list(rows[0])
    lines = [names, *([_printable(row[name]) for name in names] for row in rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(names))]
    cells = (
        [" " * (w - _width(text)) + text if name in RIGHT_ALIGNED else text + " " * (w - _width(text))
         for name, text, w in zip(names, line, widths, strict=True)]
        for line in lines
    )  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in cells)


def short_names(paths: Iterable[str], most: int = NAME) -> list[str]:
    """The name of each file as one printable line, shortened in the middle; below the common folder if names repeat."""
    paths = [str(path) for path in paths]
    names = [os.path.basename(path) for path in paths]  # noqa: PTH119
    if len(set(names)) < len(set(paths)):
        with suppress(ValueError):  # of two drives
            full = [os.path.abspath(path) for path in paths]  # noqa: PTH100
            root = os.path.commonpath([os.path.dirname(path) for path in full])  # noqa: PTH120
            names = [os.path.relpath(path, root) for path in full]
    return [shortened(_printable(name), most) for name in names]


def _printable(text: Any) -> str:
    """Without control characters, which a terminal would obey; a no-break space stays."""
    return "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "?" for c in str(text))


def photos_table(predictions: pd.DataFrame) -> str:
    """A row per photo or car of `Classifier.predict`."""
    names = short_names(predictions["path"])
    several = "car" in predictions
    rows = predictions.itertuples(index=False)
    return table(
        [
            {"photo": name, **({"car": "" if pd.isna(row.car) else int(row.car)} if several else {}), **_answer(row)}
            for name, row in zip(names, rows, strict=True)
        ]
    )


def cars_table(cars: pd.DataFrame) -> str:
    """A row per car of `carclf.predict_video`, of one clip or several."""
    if cars.empty:
        return "no cars"
    clip = ({"clip": name} if cars["path"].nunique() > 1 else {} for name in short_names(cars["path"]))
    rows = cars.itertuples(index=False)
    return table(
        [
            {
                **first,
                "car": row.track,
                "seen": f"{row.first_seen:.1f} to {row.last_seen:.1f} s",
                "frames": row.frames,
                **_answer(row),
            }
            for first, row in zip(clip, rows, strict=True)
        ]
    )


def shares_table(shares: pd.DataFrame, n: int, of: str = "photos") -> str:
    """Shares of `carclf.brand_shares` or `counted_shares` among `n` photos; a last line counts the brands unseen."""
    digits = int(np.clip(np.ceil(np.log10(max(n, 1))) - 2, 0, 2))  # as fine as one of them
    corrected = "corrected" in shares
    shares = shares if corrected else shares.assign(corrected=shares["share"], counted=1)
    least = resolution(max(n, 1))
    # Of a brand that is hidden among another's answers, high is more than the photos alone could exclude.
    seen = shares[(shares["counted"] > 0) | (shares["corrected"] >= 0.5 / max(n, 1)) | (shares["high"] > 1.1 * least)]
    rows = [
        {
            "brand": brand,
            **({} if corrected else {"n": row.cars}),
            "share": percent(row.corrected, digits),
            "from": percent(row.low, digits),
            "to": percent(row.high, digits),
            **({"counted": percent(row.counted, digits)} if corrected else {}),
        }
        for brand, row in zip(seen.index, seen.itertuples(index=False), strict=True)
    ]
    rest, below = len(shares) - len(seen), percent(least, digits or 1)
    verb = "was" if rest == 1 else "were"
    more = f"\n{counted(rest, 'more brand')} {verb} not seen: below {below} each, as far as {n:,} {of} can tell"
    return table(rows) + (more if rest else "")


def evaluation_table(metrics: dict[str, Any], predictions: pd.DataFrame, classes: Sequence[str]) -> str:
    """Scores of `compute_metrics`, and what the decisions are worth."""
    scores = metrics_table(metrics)["value"]
    rows = [
        {
            "decision": row.Index,
            "photos": row.photos,
            "share": percent(row.share),
            "right": f"{percent(row.right)} of {row.labelled:,}" if row.labelled else "–",
        }
        | ({"of other brands": f"{row.other_brand:,}"} if metrics["unknown_brand"] else {})
        for row in decisions(predictions, classes).itertuples()
    ]
    width = max(map(len, scores.index))
    return "\n".join([*(f"{name:{width}}  {value}" for name, value in scores.items()), "", table(rows)])


def pairs_table(pairs: pd.DataFrame, most: int = 40) -> str:
    """Pairs of `carclf.duplicates`, the first of them."""
    if pairs.empty:
        return "no picture is there more than once"
    first = pairs.head(most)
    names = short_names([*first["path"], *first["other_path"]])
    rows = [
        {"photo": one, "the same picture": other, "kind": kind}
        for one, other, kind in zip(names[: len(first)], names[len(first) :], first["kind"], strict=True)
    ]
    more = f"\nand {len(pairs) - most:,} more pairs; --csv writes all of them" if len(pairs) > most else ""
    return table(rows) + more


def unread(predictions: pd.DataFrame) -> list[str]:
    """What could not be read, and why."""
    rows = predictions[predictions["problem"].notna() & predictions["predicted"].isna()].drop_duplicates("path")
    return [f"{path}: {problem}" for path, problem in zip(rows["path"], rows["problem"], strict=True)]


def _answer(row: Any) -> dict[str, str]:
    """Brand, how sure, second guess and decision; why, in words, if there is no brand."""
    if pd.isna(row.predicted):
        why = SMALL if row.decision == SMALL else shortened(str(row.problem), PROBLEM)
        return {"brand": "–", "sure": "", "second guess": "", "decision": why}
    sure = percent(row.confidence)
    if row.decision in NOT_CARS:
        guess = f"perhaps {row.predicted} {sure}"
        return {"brand": "unknown", "sure": "", "second guess": guess, "decision": NOT_CARS[row.decision]}
    second = next(((brand, p) for brand, p in list(row.top5.items())[1:2] if p >= 0.005), None)
    guess = "" if second is None else f"{second[0]} {percent(second[1])}"
    return {"brand": row.predicted, "sure": sure, "second guess": guess, "decision": row.decision}


def _width(text: str) -> int:
    """Columns of a terminal: Chinese letters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)
