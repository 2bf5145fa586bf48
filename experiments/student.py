"""Train the student project's recipe, rebuilt from its description, and compare it with our baseline.

python experiments/student.py path/to/cars path/to/other/collections --out runs/recipes

Described are: a random split photo by photo, class weights by the square root, a head of three layers, five stages
that unfreeze from the head downwards, SGD with Nesterov momentum and a OneCycle each, no label smoothing, no moving
average. Not described, so our choice: learning rates (not tuned), photo size, augmentation, and as many epochs as take
about as long as our baseline; the table shows the minutes of both. If every photo shows another car, as in the photos
used here, a split photo by photo is a split by vehicle. So both recipes learn from the same photos and answer the same
questions as in `experiments/recipes.py`; `notebooks/train.ipynb` shows what such a split hides if cars have siblings.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from common import BASE, Arms, arguments
from torch.nn import functional as F
from torch.utils.data import BatchSampler, RandomSampler
from tqdm.auto import tqdm

import carclf
from carclf.model import backbones
from carclf.model.card import Card
from carclf.model.classifier import Classifier
from carclf.train.batches import Dataset

STAGES = ("head", "blocks.6", "blocks.4", "blocks.2", "all")
EPOCHS, LR, SIZE, BATCH = 2, 0.02, 112, 32
BACKBONE = "efficientnet_lite0"


def main() -> None:
    """Train the student's recipe unless that is done, and print it beside the baseline."""
    arms = Arms.of(arguments(__doc__, "runs/recipes").parse_args())
    arms.train("baseline", replace(BASE, seed=arms.seed))
    folder = arms.folder("student") / "model"
    if not folder.exists():
        data, began = Dataset.of(arms.manifest, arms.cache, "inverse_sqrt"), time.monotonic()
        model = train(data, arms.seed)
        minutes = (time.monotonic() - began) / 60
        card = Card(BACKBONE, "mlp", data.classes, SIZE, arms.cache.size, training={"minutes": minutes})
        Classifier(model, card, "cpu").save(folder)
    classifier = Classifier.load(folder)
    arms.keep("student", classifier.card.training["minutes"], classifier, lambda: arms.logits(classifier))
    table = arms.table()
    print(table[table.index.get_level_values("arm").isin(["baseline", "student"])].round(1).T.to_string())


def train(data: Dataset, seed: int) -> torch.nn.Module:
    """Five stages from the head downwards; returns the network of the last epoch."""
    torch.manual_seed(seed)
    model = backbones.build_model(BACKBONE, len(data.classes), head="mlp").to(memory_format=torch.channels_last)
    augment = carclf.Augment(SIZE, *backbones.normalisation(BACKBONE))
    batches = BatchSampler(RandomSampler(data.train), BATCH, drop_last=True)
    for unfreeze in STAGES:
        backbones.set_trainable(model, unfreeze)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, EPOCHS * len(batches), cycle_momentum=False)
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
