import pytest
import torch

from carclf import devices


def fake(monkeypatch, cuda=False, mps=False, capability=(8, 0)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if hasattr(torch, "xpu"):
        monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


def test_the_best_device_is_taken(monkeypatch):
    fake(monkeypatch)
    assert devices.pick().name == "cpu"
    fake(monkeypatch, mps=True)
    assert str(devices.pick()) == "mps, float32"
    fake(monkeypatch, mps=True, cuda=True)
    assert str(devices.pick()) == "cuda, bfloat16"
    assert devices.pick("cuda:1").torch == torch.device("cuda:1")
    assert devices.pick("cpu").name == "cpu"


def test_an_old_card_computes_in_float32(monkeypatch):
    fake(monkeypatch, cuda=True, capability=(7, 5))
    assert devices.pick().dtype == torch.float32


def test_a_device_that_is_not_there_is_refused_with_those_there_are(monkeypatch):
    fake(monkeypatch)
    with pytest.raises(ValueError, match=r"device 'cuda' is not to be had here; choose 'auto' or one of: cpu"):
        devices.pick("cuda")


def test_autocast_computes_in_the_devices_precision():
    with devices.Device("cpu", torch.bfloat16).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with devices.Device("cpu", torch.float32).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
