"""What makes two calls one run: which settings and photos must be the same, and what has changed, in words."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carclf.data.manifest import usable
from carclf.train.recipe import Recipe, current_settings

CONTENT = "with other content"


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """What must stay the same in a run, as JSON gives it back. The device may change."""
    settings = json.loads(json.dumps(asdict(recipe)))
    del settings["device"]
    return settings


def differences(old: dict, new: dict, photos: dict[str, int]) -> list[str]:
    """What two identities of a run differ in, in words; photos last."""
    found = changed_settings(current_settings(old["recipe"]), new["recipe"])
    if old["cache_size"] != new["cache_size"]:
        found.append(f"size of the cache: was {old['cache_size']}, now {new['cache_size']}")
    if old["classes"] != new["classes"]:
        before, now = set(old["classes"]), set(new["classes"])
        gone, added = (", ".join(sorted(brands)) or "none" for brands in (before - now, now - before))
        found.append(f"brands: no longer {gone}, new {added}")
    if old["data"] != new["data"] and old.get("names") != new["names"]:
        counts = ", ".join(f"{n:,} {what}" for what, n in photos.items())
        found.append(f"photos or another split{counts and f': {counts}'}")
    return found


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What two recipes differ in, in words."""
    found = []
    for name in [*new, *(old.keys() - new.keys())]:
        a, b = (settings.get(name, "not in this version") for settings in (old, new))
        if a == b:
            continue
        if name == "stages":
            found += _changed_stages(a, b)
        elif name == "augment":
            each = [(key, a.get(key, "the default"), b.get(key, "the default")) for key in {**a, **b}]
            found += [f"{key} of augment: was {_short(x)}, now {_short(y)}" for key, x, y in each if x != y]
        else:
            found.append(f"{name}: was {_short(a)}, now {_short(b)}")
    return found


def _changed_stages(old: list[dict], new: list[dict]) -> list[str]:
    found = []
    for number, (a, b) in enumerate(zip_longest(old, new), 1):
        if a is None or b is None:
            values = ", ".join(_short(value) for value in (a or b).values())
            found.append(f"stage {number} ({values}) is {'new' if a is None else 'gone'}")
        else:
            changed = [key for key in a if a[key] != b[key]]
            found += [f"{key} of stage {number}: was {_short(a[key])}, now {_short(b[key])}" for key in changed]
    return found


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def photo_changes(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, int]:
    """How many photos of train and valid are not what they were; moved together they are the same."""
    facts = ["path", "sha256", "brand", "split"]
    before, now = (usable(table).reindex(columns=facts) for table in (before, now))
    if not before.path.isin(now.path).any():
        before, now = (table.assign(path=below(table.path.to_numpy())) for table in (before, now))
    before, now = (table[table.split.isin(("train", "valid"))] for table in (before, now))
    pairs = before.merge(now, "outer", "path", suffixes=("", "_now"), indicator=True)
    both = pairs[pairs._merge == "both"]
    found = {
        "new": (pairs._merge == "right_only").sum(),
        "gone": (pairs._merge == "left_only").sum(),
        CONTENT: (both.sha256.notna() & (both.sha256 != both.sha256_now)).sum(),  # missing in version 0.1
        "of another brand": (both.brand != both.brand_now).sum(),
        "in another split": (both.split != both.split_now).sum(),
    }
    return {what: int(n) for what, n in found.items() if n}


def below(paths: np.ndarray) -> list[str]:
    """Paths below the folder that holds all of them, which may be elsewhere tomorrow."""
    # As text: on Windows two drives have no common folder.
    start = len(os.path.commonprefix([str(Path(path).parent) for path in paths]))  # noqa: RUF071
    return [path[start:] for path in paths]
