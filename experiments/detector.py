"""Make the car detector that ships: measure on sets left out in turn, two at a time, then train on all of them.

python experiments/detector.py path/to/boxes path/to/cars path/to/more path/to/more2 --out runs/detector

`boxes` holds `boxes.csv` (file, x0, y0, x1, y1 as fractions, class) and `photos/<set><number>.webp`; `cars` photos that
a car fills to the edge; the others photos that mostly show one car, without boxes. A first detector learns from the
boxes alone; it then boxes the other photos, and where it is sure its boxes teach the second. For sets that are left
out, neither has seen them. Interrupted, the same command resumes. `--only 02+03` does one arm alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import ROOT, shipped_split
from detection_scores import THRESHOLDS, measure
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from tqdm.auto import tqdm
from training_windows import BATCH, Photo, batch, read_all, read_boxes, street, whole

from carclf.data.listing import list_photos
from carclf.data.photos import read_photo
from carclf.files import write_text
from carclf.model.backbones import normalisation
from carclf.model.crops import select
from carclf.model.detector import Detector, DetectorCard, build_detector
from carclf.model.device import pick
from carclf.model.weights import read_tensors, write_tensors

HELD = ("01+07", "02+03", "04+08")  # sets that are left out together; two of like streets, one of like cameras
WARM_UP = 50  # steps
LEFT_OUT, ALL = (400, 300), (900, 900)  # steps without and with pseudo-boxes: a set left out, and what ships
SIZES = ((0.75, 320), (1.0, 384))  # side of the training window up to this share of the steps
LR, BACKBONE_LR, WEIGHT_DECAY = 3e-3, 5e-4, 1e-4
FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1")
SURE, DOUBTFUL = 0.45, 0.25  # pseudo-boxes: scores from which one is taken, and from which one spoils its photo
LARGE = 0.12  # share of the photo that a pseudo-box has at least
SHARES = {"boxes": 0.50, "pseudo": 0.35, "tight": 0.08, "drawn": 0.07}  # of the training photos in a batch
TIGHT, OTHERS, DRAWN = 800, 4000, 200  # photos without boxes
CHECKPOINT = 100  # steps
# Of the detector that ships. Chosen by hand: on sets left out, whose detectors learned for less than half as long, no
# threshold that still finds most cars keeps below one box in 20 photos without vehicles.
THRESHOLD = 0.5


COMMAND = "python experiments/detector.py path/to/boxes path/to/cars path/to/more path/to/more2 --scenes path/to/scenes"
ABOUT = {
    "good for": "cars, vans, SUVs, pickups, minivans and taxis of a tenth of the photo or more, by day or night",
    "learned from": (
        "1,241 photos of six public sets with every vehicle boxed (streets of Asia, road cameras, web photos, everyday "
        "photos, mostly without cars), 800 tight crops of Stanford Cars, 200 drawn streets, and those of 4,000 "
        "catalogue and street photos of which a first detector was sure (about half)"
    ),
    "misses": (
        "cars below 48 pixels in a photo of 512, cars behind others, dense queues, cars seen from above; it may take "
        "a lorry, a bus or a three-wheeler for a car, and a car's picture or model for a car"
    ),
    "photos' rights": (
        "sets with boxes: CC BY 4.0 or unstated; Stanford Cars: research use; other collections: mixed or unstated. No "
        "photo is part of this project. Ask a lawyer before you use the weights commercially"
    ),
}


def main() -> None:
    """Measure every set left out, train the detector that ships, write its folder and a table of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boxes", type=Path)
    parser.add_argument("tight", help="photos that the car fills to the edge")
    parser.add_argument("others", nargs="+", help="photos that mostly show one car")
    parser.add_argument("--out", type=Path, default=Path("runs/detector"))
    parser.add_argument("--only", help="the sets to leave out, or 'none' for the detector that ships; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=Path, help="photos of whole scenes; scene_boxes.csv holds their main cars")
    options = parser.parse_args()
    boxed = read_boxes(options.boxes)
    tight, others = unboxed(options.tight, options.others)
    drawn = [street(seed) for seed in tqdm(range(DRAWN), "draw streets", leave=False)]
    for held in [options.only] if options.only else [*HELD, "none"]:
        arm(held, boxed, {"tight": tight, "drawn": drawn}, others, options.out / held, options.seed)
    if not options.only:
        publish(options.out, options.scenes)


def unboxed(tight: str, others: list[str]) -> tuple[list[Photo], list[Photo]]:
    """Photos without boxes, tight ones and others; none that valid or test ask the shipped classifier about."""
    manifest = shipped_split(tight, others[0])
    asked = manifest.split.isin(["valid", "test"])
    away = manifest.collection.notna()
    paths = manifest.path[~asked & away].tolist() + [p for folder in others[1:] for p in list_photos(folder)]
    return [whole(p) for p in read_all(sample(manifest.path[~asked & ~away], TIGHT))], read_all(sample(paths, OTHERS))


def sample(paths: Sequence[str], n: int) -> list[str]:
    """Some of the paths, the same in every call."""
    return sorted(np.random.default_rng(0).permutation(list(paths))[:n].tolist())


def arm(held: str, boxed: list[Photo], extra: dict, others: list[Photo], out: Path, seed: int) -> None:
    """Train both detectors without some sets, and measure them on each."""
    left_out = held.split("+")
    seen = [p for p in boxed if p.name[:2] not in left_out]
    out.mkdir(parents=True, exist_ok=True)
    steps = ALL if held == "none" else LEFT_OUT
    first = train(out / "first", {"boxes": seen, **extra}, steps[0], seed)
    pseudo = [] if (out / "second" / "card.json").exists() else pseudo_boxes(first, others)
    print(f"{held}: {len(pseudo)} of {len(others)} photos got boxes", flush=True)
    second = train(out / "second", {"boxes": seen, "pseudo": pseudo, **extra}, steps[1], seed, start=out / "first")
    for name in left_out if held != "none" else ():
        unseen = [p for p in boxed if p.name[:2] == name]
        results = {"first": measure(first, unseen), "second": measure(second, unseen)}
        write_text(out.parent / f"{name}.json", json.dumps(results, indent=1))
        print(name, json.dumps(results), flush=True)


def publish(out: Path, scenes: Path | None) -> None:
    """Write the folder that ships: the detector that learned from all sets, and in its card the results of others."""
    left_out = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(out.glob("??.json"))}
    if not left_out:
        raise ValueError(f"{out} holds no results of sets left out, which its card has to quote; run without --only")
    results = {name: found["second"] for name, found in left_out.items()}
    n = sum(r["photos without vehicles"] for r in results.values())
    false = np.array([score for r in results.values() for score in r["false scores"]])
    rates = {t: round(float((false >= t).sum() / max(1, n)), 4) for t in THRESHOLDS}
    training: dict = {"left out": {k: {m: v for m, v in r.items() if m != "false scores"} for k, r in results.items()}}
    training |= {"photos without vehicles": n, "boxes in them, per photo, by threshold": rates, "steps": ALL}
    training |= {"hardware": pick("auto").describe(), "command": COMMAND}
    card = replace(DetectorCard(), threshold=THRESHOLD, about=ABOUT)
    if scenes:
        training["scenes"] = on_scenes(Detector.load(out / "none" / "second"), scenes, THRESHOLD)
    folder = ROOT / "models" / "find-cars"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / "none" / "second" / "model.safetensors", folder)
    write_text(folder / "card.json", json.dumps(asdict(replace(card, training=training)), indent=1, ensure_ascii=False))
    print(json.dumps(training, indent=1))


def on_scenes(model: Detector, folder: Path, threshold: float) -> dict:
    """How often `select` takes the main car of a scene (IoU of 0.5 or more with the box marked by hand)."""
    table = pd.read_csv(Path(__file__).with_name("scene_boxes.csv"))
    hits, boxes_without = [], 0
    for row in table.itertuples():
        photo = read_photo(folder / str(row.file))
        found = model.find([photo], threshold)[0]
        if np.isnan(row.x0):
            boxes_without += len(found)
            continue
        truth = np.array([[row.x0, row.y0, row.x1, row.y1]]) * np.tile(photo.size, 2)
        main_car = select(found, photo.size, "main")[["x0", "y0", "x1", "y1"]].to_numpy()
        hits.append(bool((box_iou(torch.tensor(main_car), torch.tensor(truth)) >= 0.5).any()))
    return {"main cars": len(hits), "found": sum(hits), "boxes in the photo without a car": boxes_without}


def pseudo_boxes(model: Detector, photos: list[Photo]) -> list[Photo]:
    """Photos in which the detector is sure of one large car and sees nothing else, with a box around it."""
    kept = []
    for start in tqdm(range(0, len(photos), 32), "box photos", leave=False):
        part = photos[start : start + 32]
        tables = model.find([Image.fromarray(p.pixels) for p in part], DOUBTFUL)
        for photo, table in zip(part, tables, strict=True):
            if len(table) and table.score[0] >= SURE:
                box, alone = main_box(table.to_numpy())
                if alone and np.prod(box[2:] - box[:2]) >= LARGE * np.prod(photo.pixels.shape[:2]):
                    kept.append(replace(photo, boxes=box[None].astype(np.float32), labels=np.zeros(1, int)))
    return kept


def main_box(boxes: np.ndarray) -> tuple[np.ndarray, bool]:
    """The best of boxes [n, 5], moved to the mean of those on the same car, and whether all others lie inside it.

    The mean, weighted by score, is closer to the car than the best box alone (box voting, Gidaris and Komodakis 2015).
    """
    xy = torch.from_numpy(boxes[:, :4])
    same = (box_iou(xy[:1], xy)[0] >= 0.5).numpy()
    box = np.average(boxes[same, :4], axis=0, weights=boxes[same, 4])
    shared = np.minimum(box[2:], boxes[:, 2:4]) - np.maximum(box[:2], boxes[:, :2])
    inside = np.prod(shared.clip(0), axis=1) / np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    return box, bool((inside >= 0.7).all())


def train(out: Path, photos: dict[str, list[Photo]], steps: int, seed: int, start: Path | None = None) -> Detector:
    """Train a detector, resume its training, or load it when it is complete.

    `photos` by kind, as in `SHARES`; `start` is the folder of a detector to begin with.
    """
    card = DetectorCard()
    if (out / "card.json").exists():
        return Detector.load(out)
    device = pick("auto")
    torch.manual_seed(seed)
    model = build_detector(card.side, pretrained=True).to(device.torch)
    if start is not None:
        model.load_state_dict(read_tensors(start / "model.safetensors")[0])
    model = model.to(memory_format=torch.channels_last)
    for name, parameter in model.backbone.body.named_parameters():
        depthwise = parameter.ndim == 4 and parameter.shape[1] == 1  # their gradient took two thirds of a step
        parameter.requires_grad_(not name.startswith(FROZEN) and not depthwise)
    own = [p for n, p in model.named_parameters() if p.requires_grad and "body" not in n]
    body = [p for n, p in model.named_parameters() if p.requires_grad and "body" in n]
    groups = [{"params": own, "lr": LR}, {"params": body, "lr": BACKBONE_LR}]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    done = resume(out, model, average, optimizer)
    shares = {kind: SHARES[kind] for kind in photos if photos[kind]}
    total, began = sum(shares.values()), time.time()
    odds = {kind: share / total for kind, share in shares.items()}
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in normalisation("efficientnet_lite0"))
    bar = tqdm(range(done, steps), out.name, initial=done, total=steps)
    for step in bar:
        model.train()
        model.backbone.body.eval()  # batches are too small and too unlike the photos asked about for new statistics
        side = next(s for share, s in SIZES if step < share * steps)
        for group, lr in zip(optimizer.param_groups, (LR, BACKBONE_LR), strict=True):
            group["lr"] = lr * min((step + 1) / WARM_UP, 0.5 + 0.5 * np.cos(np.pi * step / steps))
        torch.manual_seed(seed * 1_000_000 + step)
        pixels, targets = batch(photos, odds, side, np.random.default_rng((seed, step)))
        x = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        with device.autocast():
            levels = list(model.backbone(x).values())
            outputs = model.head(levels)
        anchors = model.anchor_generator(ImageList(x, [(side, side)] * BATCH), levels)
        counts = [level.shape[2] * level.shape[3] for level in levels]
        loss = sum(model.compute_loss(targets, outputs, anchors, counts).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own + body, 10.0)
        optimizer.step()
        average.update_parameters(model)
        if (step + 1) % 50 == 0:
            print(
                f"{out}: step {step + 1}, loss {loss.item():.3f}, {(step + 1 - done) / (time.time() - began):.2f}/s",
                flush=True,
            )
        if (step + 1) % CHECKPOINT == 0:
            keep(out, model, average, optimizer, step + 1)
    Detector(average.module, card).save(out)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return Detector.load(out)


def keep(out: Path, model, average, optimizer, step: int) -> None:
    """Write everything that the next step needs."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "checkpoint.safetensors", {k: v.clone() for k, v in tensors.items()}, {"step": str(step)})


def resume(out: Path, model, average, optimizer) -> int:
    """Load a checkpoint, if there is one; the number of steps that it has behind it."""
    if not (out / "checkpoint.safetensors").exists():
        return 0
    tensors, facts = read_tensors(out / "checkpoint.safetensors")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    average.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
    whole = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            whole["state"].setdefault(int(i), {})[name] = value
    optimizer.load_state_dict(whole)
    return int(facts["step"])


if __name__ == "__main__":
    main()
