"""The student project's recipe, rebuilt as it is described, beside ours: same backbone, photos and sizes.

python benchmarks/student.py path/to/photos path/to/photos/of/other/collections --out runs/recipes

Described are: a random split photo by photo, class weights by the square root, a head of three layers, five stages
that unfreeze from the head downwards, SGD with Nesterov's momentum and a OneCycle each, no label smoothing, no moving
average. Not described, and ours: the rates (not tuned), the photos' size, the augmentation and the epochs, so many that
it takes about as long as our baseline; the table has the minutes of both. Where every photo shows another
car, as in the photos this is measured on, a split photo by photo is a split by vehicle, so both recipes learn from the
same photos and answer the same questions (`benchmarks/recipes.py`); what such a split hides where cars have siblings
is in `notebooks/train.ipynb`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from recipes import BASE, answer, compared, keep, questions, say
from ship import ROOT
from torch.nn import functional as F
from torch.utils.data import BatchSampler, RandomSampler
from tqdm.auto import tqdm

import carclf
from carclf import models
from carclf.classifier import Card, Classifier
from carclf.dataset import Dataset

STAGES = ("head", "blocks.6", "blocks.4", "blocks.2", "all")
EPOCHS, RATE, SIZE, BATCH = 2, 0.02, 112, 32
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
    cache = carclf.TensorCache.build(manifest, ROOT / "cache", 256)
    answer("baseline", replace(BASE, seed=options.seed), manifest, cache, options.out)
    place = options.out / f"student-{options.seed}"
    if not (place / "model").exists():
        data, began = Dataset.of(manifest, cache, "inverse_sqrt"), time.monotonic()
        model = train(data, options.seed)
        minutes = (time.monotonic() - began) / 60
        card = Card(BACKBONE, "mlp", data.classes, SIZE, cache.size, training={"minutes": minutes})
        Classifier(model, card, "cpu").save(place / "model")
    classifier = Classifier.load(place / "model")
    minutes = classifier.card.training["minutes"]
    keep(place, "student", options.seed, minutes, classifier, lambda: say(classifier, manifest, cache), manifest)
    table = compared(options.out, manifest)
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
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * len(batches), cycle_momentum=False)
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


if __name__ == "__main__":
    main()
