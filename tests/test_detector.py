"""The car detector: what ships finds drawn cars; files, sizes, errors; how it is trained and measured."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import carclf
from carclf.demo.street import draw_street
from carclf.model import detector as module
from carclf.model.detector import SHIPPED, Detector, build_detector, find_cars

BOX = ["x0", "y0", "x1", "y1"]


def iou(a, b):
    inside = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


@pytest.fixture(scope="module")
def shipped():
    return Detector.load(device="cpu")


@pytest.fixture(scope="module")
def streets():
    return [draw_street(seed, cars=4) for seed in range(9000, 9006)]


def test_cars_of_a_street_are_found(shipped, streets):
    wanted = found = boxes = 0
    for (_, truth), table in zip(streets, shipped.find([image for image, _ in streets]), strict=True):
        seen = truth[(truth.visible > 0.7) & ((truth.x1 - truth.x0) > 60)]
        wanted += len(seen)
        found += sum(
            max([iou(car, box) for box in table[BOX].to_numpy()], default=0) >= 0.5 for car in seen[BOX].to_numpy()
        )
        boxes += len(table)
    assert wanted >= 12
    assert found >= 0.85 * wanted
    assert boxes <= sum(len(truth) for _, truth in streets) + 2


def test_the_table_is_best_first_in_pixels_of_the_photo(streets):
    image, _ = streets[0]
    table = carclf.find_cars(image)
    assert [*table.columns] == [*BOX, "score"] and {*map(str, table.dtypes)} == {"float64"}
    assert table.score.is_monotonic_decreasing and table.score.between(0, 1).all() and len(table)
    assert (table[["x0", "y0"]] >= 0).all(axis=None) and (table.x0 < table.x1).all() and (table.y0 < table.y1).all()
    assert (table.x1 <= image.width).all() and (table.y1 <= image.height).all()


def test_boxes_grow_with_the_photo(streets):
    image, _ = streets[0]
    large = find_cars(image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC), 0.5)
    small = find_cars(image, 0.5)
    for box in small[BOX].to_numpy()[:2]:
        assert max(iou(box * 2, other) for other in large[BOX].to_numpy()) > 0.8


def test_boxes_are_those_of_the_upright_photo(streets):
    image, _ = streets[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    file = io.BytesIO()
    image.rotate(90, expand=True).save(file, "JPEG", exif=exif, quality=95)
    turned, straight = find_cars(file.getvalue(), 0.5), find_cars(image, 0.5)
    assert iou(turned[BOX].to_numpy()[0], straight[BOX].to_numpy()[0]) > 0.8
    opened = find_cars(Image.open(io.BytesIO(file.getvalue())), 0.5)  # not turned yet
    pd.testing.assert_frame_equal(opened, turned)
    pd.testing.assert_frame_equal(find_cars(np.asarray(image), 0.5), straight)


def test_a_photo_alone_and_among_others_has_the_same_boxes(shipped, streets):
    images = [image for image, _ in streets[:3]]
    together = shipped.find([*images, images[0].resize((300, 700))])
    for image, table in zip(images, together, strict=False):
        alone = shipped.find([image])[0]
        for box in alone.head(3).to_numpy():  # bfloat16 sums are rounded differently in other batches
            assert np.abs(table.to_numpy() - box).max(1).min() < 3 and np.abs(table.score - box[4]).min() < 0.03


def test_the_threshold_only_leaves_out(shipped, streets):
    image, _ = streets[1]
    lenient, strict = shipped.find([image], 0.1)[0], shipped.find([image], 0.6)[0]
    assert len(lenient) >= len(strict)
    pd.testing.assert_frame_equal(lenient[lenient.score >= 0.6], strict)
    with pytest.raises(ValueError, match="threshold 2 must lie between 0 and 1"):
        shipped.find([image], 2)


def test_tiny_and_narrow_photos_have_no_cars(shipped):
    photos = [Image.new("RGB", size, "grey") for size in ((1, 1), (16, 2000), (2000, 16), (30, 30))]
    assert [len(table) for table in shipped.find(photos)] == [0] * 4
    assert shipped.find([]) == []


def test_fusing_changes_no_box(streets):
    plain = build_detector(pretrained=True).eval()
    with torch.no_grad():
        plain.head.classification_head.cls_logits.bias.fill_(0)  # or nothing would be found
        x = [torch.rand(3, 96, 128)]
        before = plain(x)[0]
        after = module._fused(plain)(x)[0]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    assert len(before["scores"]) == len(after["scores"]) > 0
    torch.testing.assert_close(before["scores"], after["scores"], atol=1e-4, rtol=1e-3)


def test_saved_and_loaded_it_finds_the_same(tmp_path, streets):
    torch.manual_seed(0)
    folder = Detector(build_detector(64), module.DetectorCard(64, 0.07), "cpu").save(tmp_path / "mine")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
    loaded = Detector.load(folder, "cpu")
    assert (loaded.threshold, loaded.card.side) == (0.07, 64)
    for detector in (folder, str(folder), loaded):
        pd.testing.assert_frame_equal(find_cars(streets[0][0], detector=detector), loaded.find([streets[0][0]])[0])
    Detector(build_detector(64), module.DetectorCard(64, 0.9), "cpu").save(folder)
    assert module.detector_of(folder, "cpu").threshold == 0.9  # files that have changed are loaded again
    assert module.detector_of(folder, "cpu") is module.detector_of(str(folder), "cpu")
    with pytest.raises(ValueError, match="detector=3 finds nothing; give a detector's folder"):
        find_cars(streets[0][0], detector=3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "card.json").unlink(), r"card.json is missing; give a detector's folder"),
        (lambda f: (f / "card.json").write_text('{"schema": 9}'), "schema 9, this version reads 1"),
        (lambda f: (f / "card.json").write_text("[]"), "is not a detector's card"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "does not fit a detector"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    folder = Detector(build_detector(64), module.DetectorCard(64), "cpu").save(tmp_path / "mine")
    damage(folder)
    with pytest.raises((OSError, ValueError), match=message):
        Detector.load(folder)


def test_what_ships_fits_and_says_what_it_is(shipped):
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 12e6
    card = json.loads((SHIPPED / "card.json").read_text("utf-8"))
    assert {"learned from", "misses", "photos' rights"} <= card["about"].keys()
    assert card["training"]["left out"].keys() == {"01", "02", "03", "04", "07", "08"}


def test_coco_from_a_local_file(tmp_path, monkeypatch, streets):
    from torchvision.models import detection

    torch.manual_seed(0)
    network = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    file = tmp_path / module.COCO_FILE
    torch.save(network.state_dict(), file)
    assert [*find_cars(streets[0][0], 0.05, file).columns] == [*BOX, "score"]
    torch.save({"other": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="does not hold SSDLite320; give ssdlite320"):
        Detector.load(file)

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(OSError, match="Three ways out"):
        Detector.load("coco")
