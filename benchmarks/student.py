"""The student project's recipe, rebuilt as it is described, beside ours: same network, photos, sizes and minutes.

python benchmarks/student.py path/to/photos path/to/photos/of/other/collections --out runs/recipes

Described are: a random split photo by photo, class weights by the square root, a head of three layers, five stages
that unfreeze from the head downwards, SGD with Nesterov's momentum and a OneCycle each, no label smoothing, no moving
average. Not described, and ours: the rates, the photos' size and the augmentation. Where every photo shows another
car, as in the photos this is measured on, a split photo by photo is a split by vehicle, so both recipes learn from the
same photos and answer the same questions (`benchmarks/recipes.py`); what such a split hides where cars have siblings
is in `notebooks/train.ipynb`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recipes import compared, questions
from torch.nn import functional as F
from torch.utils.data import BatchSampler, RandomSampler
from tqdm.auto import tqdm

import carclf
from carclf import models
from carclf.dataset import Dataset

STAGES = ("head", "blocks.6", "blocks.4", "blocks.2", "all")
EPOCHS, RATE, SIZE, BATCH = 2, 0.02, 112, 32  # two epochs a stage take as long as our baseline
BACKBONE = "efficientnet_lite0"


def main() -> None:
    """Train the student's recipe unless that was done, and print it beside what benchmarks/recipes.py has trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("elsewhere")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    manifest = questions(options.photos, options.elsewhere)
    cache = carclf.TensorCache.build(manifest, "cache", 256)
    place = options.out / f"student-{options.seed}"
    if not (place / "arm.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        data = Dataset.of(manifest, cache, "inverse_sqrt")
        began = time.monotonic()
        model = train(data, options.seed)
        facts = {"arm": "student", "seed": options.seed, "minutes": (time.monotonic() - began) / 60}
        np.save(place / "logits.npy", say(model, cache, np.flatnonzero(manifest.question.notna())))
        (place / "arm.json").write_text(json.dumps(facts | {"classes": data.classes}))
    table = pd.concat(compared(options.out, manifest))
    print(table[table.index.get_level_values("arm").isin(["baseline", "student"])].round(1).T.to_string())


def train(data: Dataset, seed: int) -> torch.nn.Module:
    """Five stages from the head downwards; the network of the last epoch."""
    torch.manual_seed(seed)
    model = models.build_model(BACKBONE, len(data.classes), head="mlp").to(memory_format=torch.channels_last)
    augment = carclf.Augment(SIZE, *models.normalisation(BACKBONE))
    batches = BatchSampler(RandomSampler(data.train), BATCH, drop_last=True)
    for unfreeze in STAGES:
        models.set_trainable(model, unfreeze)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * len(batches))
        for epoch in range(EPOCHS):
            for batch in tqdm(batches, f"{unfreeze} {epoch + 1}/{EPOCHS}", leave=False):
                photos, labels = data.photos(data.train[batch])
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(augment(photos).contiguous(memory_format=torch.channels_last))
                F.cross_entropy(logits.float(), labels, data.weights).backward()
                optimizer.step()
                optimizer.zero_grad()
                cycle.step()
    return model


@torch.no_grad()
def say(model: torch.nn.Module, cache: carclf.TensorCache, rows: np.ndarray) -> np.ndarray:
    """Logits, float32 [n, n_classes], of some rows of the manifest."""
    model.eval()
    plain = carclf.Augment(SIZE, *models.normalisation(BACKBONE)).plain()
    return np.concatenate([model(plain(cache.batch(part))).numpy() for part in np.array_split(rows, len(rows) // 64)])


if __name__ == "__main__":
    main()
