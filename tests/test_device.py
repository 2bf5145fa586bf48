import sys
from contextlib import nullcontext

import pytest
import torch

from carclf.model import device as devices
from carclf.model.device import Device


def fake(monkeypatch, cuda=False, mps=False, xpu=False, capability=(8, 0)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if hasattr(torch, "xpu"):
        monkeypatch.setattr(torch.xpu, "is_available", lambda: xpu)


def test_the_best_device_is_taken(monkeypatch):
    fake(monkeypatch)
    assert devices.pick().name == "cpu"
    fake(monkeypatch, mps=True)
    assert str(devices.pick()) == "mps, float32"
    fake(monkeypatch, mps=True, xpu=hasattr(torch, "xpu"))
    assert str(devices.pick()) == ("xpu, bfloat16" if hasattr(torch, "xpu") else "mps, float32")
    fake(monkeypatch, mps=True, cuda=True)
    assert str(devices.pick()) == "cuda, bfloat16"
    assert devices.pick("cuda:1").torch == torch.device("cuda:1")
    assert devices.pick("cpu").name == "cpu"


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_a_card_computes_in_its_fastest_precision(monkeypatch, capability, dtype):
    fake(monkeypatch, cuda=True, capability=capability)
    device = devices.pick()
    assert device.dtype == dtype
    assert Device("cpu", dtype).scaler().is_enabled() == (dtype == torch.float16)  # small gradients need it there


@pytest.mark.parametrize(
    ("amx", "avx512", "dtype"),
    [(True, False, torch.bfloat16), (False, True, torch.bfloat16), (False, False, torch.float32)],
)
def test_a_cpu_computes_in_bfloat16_if_it_has_units_for_it(monkeypatch, amx, avx512, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert devices.pick("cpu").dtype == dtype


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_precision_can_be_chosen_unless_directml_gets_it_wrong(monkeypatch, torch_directml, precision):
    fake(monkeypatch)
    assert str(devices.pick("cpu", precision)) == f"cpu, {precision}"
    with nullcontext() if precision == "float32" else pytest.raises(ValueError, match="goes wrong on DirectML"):
        assert devices.pick("directml", precision).dtype == torch.float32


def test_autocast_computes_in_the_devices_precision():
    with Device("cpu", torch.bfloat16).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with Device("cpu", torch.float32).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_directml_comes_before_the_cpu_and_is_used_without_its_broken_features(monkeypatch, torch_directml):
    fake(monkeypatch)
    device = devices.pick()
    assert str(device) == "directml, float32"
    assert device.foreach is False
    assert device.memory_format == torch.contiguous_format
    assert not device.scaler().is_enabled()
    assert device.torch == devices.pick("directml:0").torch == torch.device("cpu", 0)
    fake(monkeypatch, cuda=True)
    assert devices.pick().kind == "cuda"


def test_directml_without_directx_is_no_error_until_it_is_asked_for(monkeypatch, tmp_path):
    fake(monkeypatch)
    (tmp_path / "torch_directml.py").write_text("raise OSError('libd3d12.so: cannot open shared object file')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert devices.pick().name == "cpu"
    for name in ("directml", "cuda"):
        with pytest.raises(ValueError, match=rf"device '{name}' is not available; choose 'auto' or one of: cpu"):
            devices.pick(name)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_distinguished_from_other_errors(error, expected):
    assert devices.ran_out_of_memory(error) is expected
