"""Run by test_kill.py: train in children that are killed with SIGKILL again and again.

python tests/killed_runs.py PHOTOS CACHE OUT KILLS

The parent imports but never computes, so each child starts at once, and a fork loses no threads.
Prints JSON: where each kill struck, and the number of runs.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import carclf
from carclf.model import weights as tensors
from carclf.train import run as records

MOMENTS = ("any time", "half a checkpoint", "before the rename", "half a model")
SECONDS = 60  # for a child that neither ends nor is killed


def train(photos: str, cache: str, out: Path) -> None:
    stages = (("head", 2, 1e-2, 32), ("blocks.5", 2, 1e-3, 32), ("all", 2, 1e-3, 32))
    recipe = carclf.Recipe(stages=stages, micro_batch=5, accumulate=2, ema=0.9, device="cpu")
    manifest = carclf.split(carclf.scan(photos), seed=1)
    carclf.fit(recipe, manifest, carclf.TensorCache.build(manifest, cache, size=40), out)


def child(arguments, moment: str, writes: int) -> int:
    """Start a training that kills itself in its n-th write, n = `writes`, unless the moment is "any time"."""
    number = os.fork()
    if number:
        return number
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  (open until the process ends)
    records.SAVE_SECONDS = 0  # a checkpoint after every step
    left, write = [writes], tensors.save_file

    def torn(content, path, metadata):
        meant = Path(path).name.startswith("model") == (moment == "half a model")
        left[0] -= meant
        write(content, path, metadata)
        if left[0] == 0 and meant:
            if moment != "before the rename":
                os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    if moment != "any time":
        tensors.save_file = torn
    try:
        train(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


def wait(number: int, kill_after: float) -> int | None:
    """Exit status of a child, or None if it was killed."""
    began, killed = time.monotonic(), False
    while True:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return None if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else status
        if not killed and time.monotonic() - began > kill_after:
            os.kill(number, signal.SIGKILL)
            killed = True
        time.sleep(0.002)


def main() -> None:
    photos, cache, out, kills = sys.argv[1:]
    draw = random.Random(0)
    status = wait(child((photos, cache, Path(out) / "whole"), "any time", 0), SECONDS)
    if status != 0:
        raise RuntimeError(f"the uninterrupted run ended with {status}")
    struck, run = [], 0
    while len(struck) < int(kills):
        moment = MOMENTS[len(struck) % len(MOMENTS)]
        after = draw.uniform(0.05, 1.5) if moment == "any time" else SECONDS
        status = wait(child((photos, cache, Path(out) / f"killed-{run}"), moment, draw.randint(1, 3)), after)
        if status is None:
            struck.append(moment)
        elif status:
            raise RuntimeError(f"a run that was killed {struck} ended with {status}")
        else:
            run += 1  # it has finished; the next run takes the remaining kills
    while (status := wait(child((photos, cache, Path(out) / f"killed-{run}"), "any time", 0), SECONDS)) is None:
        pass
    if status:
        raise RuntimeError(f"the last run ended with {status}")
    print(json.dumps({"struck": struck, "runs": run + 1}))


if __name__ == "__main__":
    main()
