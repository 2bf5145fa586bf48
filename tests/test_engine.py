"""One optimizer step: exact, whatever the micro-batches, the device's memory or the number of processes."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import carclf
from carclf.model import backbones
from carclf.model.device import Device
from carclf.train.batches import Dataset
from carclf.train.distributed import Processes
from carclf.train.engine import Engine
from carclf.train.run import FILE as CHECKPOINT

ALL = (("all", 2, 1e-3, 32),)
HEAD = (("head", 2, 1e-2, 32),)


def recipe(**changes):
    usual = {"stages": ALL, "micro_batch": 8, "clip_grad": 0.0, "device": "cpu", "precision": "float32"}
    return carclf.Recipe(**{**usual, **changes})


def begun(data, device=None, **changes):
    """An engine at the start of its first stage."""
    settings = recipe(**changes)
    dataset = Dataset.of(*data, settings.class_weight)
    engine = Engine(settings, dataset, Processes(1, 0, device or Device("cpu", torch.float32)))
    engine.begin(0)
    return engine


def gradient(engine, batch):
    """Loss and all gradients of a batch in one vector; BatchNorm in eval does not see the micro-batches."""
    engine.model.eval()
    loss = engine._gradient(batch)
    return loss, torch.cat([p.grad.flatten() for p in engine.model.parameters() if p.requires_grad])


def large_batch(engine, batch, model, dtype):
    """The same from a plain weighted mean over one batch, with torch's own cross-entropy."""
    model.zero_grad()
    labels = engine.data.labels[engine.data.train[batch.positions]]
    weights = engine.data.weights[labels].to(dtype)
    logits = model(engine._inputs(batch, np.arange(len(batch))).to(dtype))
    losses = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    loss = (weights * losses).sum() / weights.sum()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).double()


def relative(ours, reference):
    return ((ours - reference).norm() / reference.norm()).item()


def first_photos(engine, n):
    """The first n photos of the first batch."""
    batch = engine.batches(0)[0]
    return replace(batch, positions=batch.positions[:n], draws=batch.draws[:n])


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("n", [21, 17])
def test_micro_batches_have_the_gradient_of_one_large_batch(data, k, n):
    settings = {"micro_batch": max(3, math.ceil(21 / k)), "accumulate": k, "class_weight": "inverse"}
    engine = begun(data, stages=HEAD, head="mlp", **settings)
    batch = first_photos(engine, n)
    loss, ours = gradient(engine, batch)
    assert len(engine._parts(n, engine.micro_batch)) == math.ceil(n / engine.micro_batch)
    head = backbones.head_of(engine.model, "efficientnet_lite0")
    expected, reference = large_batch(engine, batch, head, torch.float32)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert relative(ours.double(), reference) <= 1e-6
    # Through fifty layers even two plain large batches differ by more than 1e-6 if another number of photos or
    # threads makes the processor sum in another order, so both are compared with float64.
    engine = begun(data, **settings)
    batch = first_photos(engine, n)
    loss, ours = gradient(engine, batch)
    _, exact = large_batch(engine, batch, copy.deepcopy(engine.model).double(), torch.float64)
    expected, plain = large_batch(engine, batch, engine.model, torch.float32)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert relative(ours.double(), exact) <= relative(plain, exact) + 1e-6


def test_a_step_trains_what_the_stage_trains_and_builds_no_graph_below(data):
    engine = begun(data, stages=(("blocks.5", 1, 1e-2, 32),))
    parts, with_graph = backbones.blocks(engine.model), set()
    for name, part in parts.items():
        part.register_forward_hook(lambda _, x, y, name=name: with_graph.add(name) if y.requires_grad else None)
    engine.step(engine.batches(0)[0], 1e-2)
    names = list(parts)
    assert with_graph == set(names[names.index("blocks.5") :])


@pytest.mark.parametrize(
    ("first", "changes"),
    [("classifier", {"head": "mlp"}), ("classifier", {"head_views": 0}), ("blocks.5", {})],
)
def test_frozen_blocks_are_bit_identical_after_the_stage(data, tmp_path, first, changes):
    settings = recipe(stages=(("head" if first == "classifier" else first, 2, 1e-2, 32),), ema=0.9, **changes)
    carclf.fit(settings, *data, tmp_path)
    model = backbones.build_model("efficientnet_lite0", 4, head=settings.head)
    names = list(backbones.blocks(model))
    frozen = tuple(f"{name}." for name in names[: names.index(first)])
    found = load_file(tmp_path / CHECKPOINT)
    for part in ("model", "average"):
        changed = [k for k, value in model.state_dict().items() if not torch.equal(found[f"{part}.{k}"], value)]
        assert not [k for k in changed if k.startswith(frozen)]
        assert any(k.startswith(f"{first}.") for k in changed)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_computed_features_train_the_head_like_the_whole_network(data, tmp_path, head, monkeypatch):
    settings = {"stages": HEAD, "head": head, "micro_batch": 6, "accumulate": 2}
    plain = carclf.fit(recipe(head_views=0, **settings), *data, tmp_path / "plain")
    forwards, forward = [], backbones.features
    monkeypatch.setattr(backbones, "features", lambda *a: forwards.append(len(a[1])) or forward(*a))
    quick = carclf.fit(recipe(head_views=2, **settings), *data, tmp_path / "quick")
    n = [len(part) for part in (Dataset.of(*data).train, Dataset.of(*data).valid)]
    assert sum(forwards) == 2 * n[0] + n[1]  # each view once, valid once
    np.testing.assert_allclose(quick.steps.loss, plain.steps.loss, rtol=1e-5)
    np.testing.assert_allclose(quick.history.valid_loss, plain.history.valid_loss, rtol=1e-5)
    ours, reference = (load_file(run.folder / CHECKPOINT) for run in (quick, plain))
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("unfreeze", "views"), [("head", [0, 1, 0, 1, 0]), ("all", [0, 1, 2, 3, 4])])
def test_views_take_turns_while_the_head_trains_alone(data, unfreeze, views):
    engine = begun(data, stages=((unfreeze, 5, 1e-2, 32),), head_views=2)
    assert [engine.batches(epoch)[0].view for epoch in range(5)] == views


def full_above(photos, monkeypatch, error):
    """A device whose memory holds this many photos."""
    forward = Engine._forward

    def limited(self, network, x):
        if len(x) > photos and torch.is_grad_enabled():
            raise error
        return forward(self, network, x)

    monkeypatch.setattr(Engine, "_forward", limited)


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_full_memory_halves_the_micro_batch_and_nothing_else(data, monkeypatch):
    batch = begun(data, micro_batch=21).batches(0)[0]
    loss, reference = gradient(begun(data, micro_batch=21), batch)
    full_above(6, monkeypatch, OUT_OF_MEMORY)
    engine = begun(data, micro_batch=21)
    with pytest.warns(UserWarning, match=r"cpu ran out of memory: .* micro-batches of (10|5) photos; its 21 photos"):
        again, ours = gradient(engine, batch)
    assert engine.micro_batch == 5
    assert again == pytest.approx(loss, rel=1e-6)
    assert relative(ours, reference) <= 5e-6  # float32 through fifty layers, as above


def test_a_run_that_fills_the_memory_continues_with_the_same_batches(data, tmp_path, monkeypatch):
    settings = recipe(stages=(("all", 1, 1e-3, 32),), micro_batch=12)
    whole = carclf.fit(settings, *data, tmp_path / "whole")
    full_above(7, monkeypatch, RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"))
    with pytest.warns(UserWarning, match="ran out of memory"):
        parts = carclf.fit(settings, *data, tmp_path / "parts")
    assert parts.steps.photos.tolist() == whole.steps.photos.tolist()
    assert parts.steps.lr.tolist() == whole.steps.lr.tolist()
    assert parts.steps.loss.iloc[0] == pytest.approx(whole.steps.loss.iloc[0], rel=0.1)  # BatchNorm sees fewer photos


def test_memory_too_small_for_any_micro_batch_and_other_errors_are_not_tried_again(data, monkeypatch):
    engine, remedy = begun(data), r"no memory for 3 photos of 32 pixels; train in another folder with a smaller size"
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="ran out of memory"):
        full_above(0, patch, OUT_OF_MEMORY)
        with pytest.raises(MemoryError, match=remedy):
            engine.step(engine.batches(0)[0], 1e-3)
    full_above(0, monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        engine.step(engine.batches(0)[0], 1e-3)


@dataclass(frozen=True)
class Scaled(Device):
    """A device that scales losses as in float16, at first by far too much."""

    def scaler(self):
        return torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)


def test_an_overflow_of_the_scaled_loss_is_tried_again_with_less(data):
    plain = begun(data)
    scaled = begun(data, Scaled("cpu", torch.float32))
    batch = plain.batches(0)[0]
    assert scaled.step(batch, 1e-3) == pytest.approx(plain.step(batch, 1e-3), rel=1e-6)
    assert scaled.scaler.get_scale() < 2.0**127
    torch.testing.assert_close(scaled.model.state_dict(), plain.model.state_dict(), rtol=1e-4, atol=1e-5)
    assert scaled.state_dict()["scaler"]["scale"] == scaled.scaler.get_scale()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("unfreeze", ["head", "all"])
def test_a_shorter_precision_starts_with_nearly_the_same_loss_and_keeps_float32_weights(data, dtype, unfreeze):
    # At 32 pixels the last BatchNorm layers would see one pixel per photo, and magnify rounding errors.
    losses = {}
    for precision in (torch.float32, dtype):
        engine = begun(data, Device("cpu", precision), stages=((unfreeze, 1, 1e-3, 96),), ema=0.9)
        losses[precision] = [engine.step(batch, 1e-3) for batch in engine.batches(0)]
        assert engine.logits().dtype == torch.float32
        assert all(value.dtype != dtype for value in engine.network.state_dict().values())
    assert losses[dtype][0] == pytest.approx(losses[torch.float32][0], rel=0.05)
    assert losses[dtype][0] != losses[torch.float32][0]
    assert np.isfinite(losses[dtype]).all()


def test_a_step_with_an_infinite_loss_changes_nothing(data, monkeypatch):
    engine = begun(data, ema=0.9)
    before = copy.deepcopy(engine.model.state_dict())
    monkeypatch.setattr("carclf.train.engine.weighted_loss", lambda logits, *_: logits.sum() * float("inf"))
    with pytest.raises(ArithmeticError, match="the loss is"):
        engine.step(engine.batches(0)[0], 1e-3)
    torch.testing.assert_close(engine.model.state_dict(), before, rtol=0, atol=0)


def test_a_gradient_is_clipped_to_the_norm_and_keeps_its_direction(data):
    batch = begun(data).batches(0)[0]
    _, whole = gradient(begun(data, clip_grad=0.0), batch)
    _, clipped = gradient(begun(data, clip_grad=0.1), batch)
    assert clipped.norm().item() == pytest.approx(0.1, rel=1e-4)
    assert relative(clipped / clipped.norm(), whole / whole.norm()) <= 1e-5
    _, short = gradient(begun(data, clip_grad=1e6), batch)
    assert torch.equal(short, whole)


def test_the_average_follows_its_formula_and_is_what_is_saved(data):
    engine = begun(data, ema=0.9)
    expected = {k: v.clone() for k, v in engine.model.state_dict().items() if v.is_floating_point()}
    for number, batch in enumerate(engine.batches(0), 1):
        engine.step(batch, 1e-3)
        decay = min(0.9, 1 - number ** (-2 / 3))  # a short memory while the training is young
        found = engine.model.state_dict()
        expected = {key: decay * value + (1 - decay) * found[key] for key, value in expected.items()}
    found = {key: engine.network.state_dict()[key] for key in expected}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert engine.network is not engine.model
    assert not torch.equal(engine.network.conv_head.weight, engine.model.conv_head.weight)


def test_earlier_blocks_have_a_lower_lr(data):
    engine = begun(data, layer_decay=0.5)
    engine.step(engine.batches(0)[0], 0.01)
    lr_of = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    blocks = backbones.blocks(engine.model).values()
    lrs = [lr for (lr,) in ({lr_of[id(p)] for p in part.parameters()} for part in blocks)]
    assert lrs[-1] == 0.01
    assert lrs == sorted(lrs)
    assert lrs[0] == lrs[1]  # the stem and its norm
    assert lrs[2] / lrs[1] == pytest.approx(2)


def test_one_photo_cannot_be_shared_by_two_processes(data):
    settings = recipe(micro_batch=3)
    with pytest.warns(UserWarning, match=r"accumulate=1 leaves 2 processes micro-batches smaller .* a multiple of 2"):
        engine = Engine(settings, Dataset.of(*data), Processes(2, 0, Device("cpu", torch.float32)))
    engine.begin(0)
    with pytest.raises(ValueError, match=r"step of 3 photos cannot be shared by 2 processes; raise micro_batch"):
        engine.batches(0)
