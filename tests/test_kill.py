"""`kill -9` at any moment loses no bit: the same call resumes and ends like an uninterrupted run."""

import json
import os
import subprocess
import sys

import killed_runs
import pytest
import torch
from safetensors.torch import load_file

import carclf
from carclf.model.classifier import WEIGHTS
from carclf.train.run import FILE as CHECKPOINT

KILLS = 20


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_run_killed_at_twenty_moments_is_the_uninterrupted_run_to_the_last_bit(photo_folder, tmp_path):
    command = [sys.executable, killed_runs.__file__, str(photo_folder), str(tmp_path / "cache"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(KILLS)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found["struck"]) == KILLS
    assert {*found["struck"]} == {*killed_runs.MOMENTS}
    whole = tmp_path / "whole"
    for number in range(found["runs"]):
        killed = tmp_path / f"killed-{number}"
        assert {p.name for p in killed.iterdir()} == {p.name for p in whole.iterdir()}  # no temporary file is left
        for file in (CHECKPOINT, f"model/{WEIGHTS}"):
            torch.testing.assert_close(load_file(killed / file), load_file(whole / file), rtol=0, atol=0)
        assert carclf.Run.load(killed).steps.equals(carclf.Run.load(whole).steps)
