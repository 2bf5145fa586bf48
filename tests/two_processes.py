"""Run by test_distributed.py through `accelerate launch`: each process does the same as the one process there.

python tests/two_processes.py PHOTOS CACHE OUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import carclf
from carclf.train.batches import Dataset
from carclf.train.distributed import Processes
from carclf.train.engine import Engine

STAGES = (("head", 1, 1e-2, 32), ("all", 2, 1e-3, 32))


def recipe(**changes) -> carclf.Recipe:
    settings = {"stages": STAGES, "micro_batch": 6, "accumulate": 2, "ema": 0.9, "head": "mlp"}
    return carclf.Recipe(**{**settings, "device": "cpu", "precision": "float32", **changes})


def load(photos: str, cache: str):
    manifest = carclf.split(carclf.scan(photos), seed=1)
    return manifest, carclf.TensorCache.build(manifest, cache, size=40)


def gradient(data, micro_batch: int, accumulate: int = 2, dtype: torch.dtype = torch.float32) -> dict:
    """Loss and gradient of one batch; BatchNorm in eval does not see the micro-batches."""
    changes = {"head": "linear", "class_weight": "inverse"}
    settings = recipe(stages=STAGES[1:], micro_batch=micro_batch, accumulate=accumulate, **changes)
    engine = Engine(settings, Dataset.of(*data, settings.class_weight), Processes.join("cpu", "float32"))
    engine.begin(0)
    engine.model.eval().to(dtype).register_forward_pre_hook(lambda _, x: (x[0].to(dtype),))
    loss = engine._gradient(engine.batches(0)[0])
    return {"loss": torch.tensor(loss), "gradient": torch.cat([p.grad.flatten() for p in engine.model.parameters()])}


def interrupted(data, out: Path) -> carclf.Run:
    """A run that is stopped within an epoch and resumed."""
    step, calls = Engine.step, []

    def stop(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    Engine.step = stop
    try:
        carclf.fit(recipe(), *data, out)
        raise RuntimeError("the run was not interrupted")
    except KeyboardInterrupt:
        Engine.step = step
    Processes.join("cpu").wait()
    return carclf.fit(recipe(), *data, out)


def main() -> None:
    photos, cache, out = sys.argv[1:]
    data = load(photos, cache)
    processes = Processes.join("cpu")
    if processes.count != 2:
        raise RuntimeError(f"{processes.count} processes, not 2")
    kinds = [(n, dtype) for n in (3, 5, 8) for dtype in (torch.float32, torch.float64)]
    found = {f"{k}.{n}.{dtype}": v for n, dtype in kinds for k, v in gradient(data, n, dtype=dtype).items()}
    if processes.is_main:
        save_file(found, Path(out) / "gradients.safetensors")
    carclf.fit(recipe(), *data, Path(out) / "whole")
    interrupted(data, Path(out) / "parts")


if __name__ == "__main__":
    main()
