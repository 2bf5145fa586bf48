"""Several processes do what one does; they exchange only sums."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import notebook_launched
import pandas as pd
import pytest
import torch
import two_processes
from safetensors.torch import load_file
from torch import nn

import carclf
from carclf.train.distributed import BatchStatistics, Processes
from carclf.train.run import FILE as CHECKPOINT


def run(*command, threads=1):
    """What a Python process prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def launch(*arguments):
    """`accelerate launch` with two processes; `--multi_gpu` starts them on a machine without cards, too."""
    accelerate = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    return run(*accelerate, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", *arguments)


@pytest.fixture(scope="module")
def both(photo_folder, tmp_path_factory):
    """What one process and two processes leave in their folders."""
    out = tmp_path_factory.mktemp("processes")
    launch(two_processes.__file__, photo_folder, out / "cache", out)
    data = two_processes.load(str(photo_folder), str(out / "cache"))
    # One thread, as in each of two processes: another number of threads sums in another order, and BatchNorm over a few
    # photos of one pixel and AdamW's first steps turn that rounding into a hundredth.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = carclf.fit(two_processes.recipe(), *data, out / "one")
    torch.set_num_threads(threads)
    return data, one, out


def assert_equal_checkpoints(*folders):
    torch.testing.assert_close(*(load_file(folder / CHECKPOINT) for folder in folders), rtol=0, atol=0)


def relative(ours, reference):
    return ((ours - reference).double().norm() / reference.double().norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [3, 5, 8])
def test_two_processes_have_the_gradient_of_one_large_batch(both, micro_batch):
    data, _, out = both
    found = load_file(out / "gradients.safetensors")
    plain, exact = (two_processes.gradient(data, 2 * micro_batch, 1, dtype) for dtype in (torch.float32, torch.float64))
    for dtype, reference in ((torch.float32, plain), (torch.float64, exact)):
        assert found[f"loss.{micro_batch}.{dtype}"].item() == pytest.approx(reference["loss"].item(), rel=1e-6)
    # A network in float64 (with a float32 loss), then float32: through fifty layers of that even two plain large
    # batches differ by more if the processor sums in another order, so both are compared with float64.
    ours = {dtype: found[f"gradient.{micro_batch}.{dtype}"] for dtype in (torch.float32, torch.float64)}
    assert relative(ours[torch.float64], exact["gradient"]) <= 1e-6
    noise = relative(plain["gradient"], exact["gradient"])
    assert relative(ours[torch.float32], exact["gradient"]) <= noise + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["whole", "parts"])
def test_two_processes_end_where_one_does_and_so_does_a_resumed_run(both, folder):
    _, one, out = both
    two = carclf.Run.load(out / folder)
    pd.testing.assert_frame_equal(two.steps, one.steps, rtol=1e-4)
    assert two.history.valid_loss.tolist() == pytest.approx(one.history.valid_loss.tolist(), rel=1e-3)
    ours, reference = (load_file(run.folder / CHECKPOINT) for run in (two, one))
    for key in [k for k in reference if k.startswith(("model.", "average."))]:
        difference = (ours[key] - reference[key]).double().norm() / reference[key].double().norm().clamp_min(1e-3)
        assert difference <= 1e-5, key


@pytest.mark.slow
def test_a_run_stopped_with_two_processes_is_the_uninterrupted_one_to_the_last_bit(both):
    assert_equal_checkpoints(both[2] / "whole", both[2] / "parts")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a notebook's launcher forks")
def test_a_notebook_that_has_computed_itself_trains_with_two_processes(both, photo_folder):
    out = both[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With threads in the parent, which a fork loses: the children must not wait for them.
    run(notebook_launched.__file__, photo_folder, out / "cache", out / "notebook", port, threads=2)
    assert_equal_checkpoints(out / "whole", out / "notebook")


@pytest.mark.slow
def test_the_command_line_trains_with_two_processes_and_prints_once(photo_folder, tmp_path):
    folders = [photo_folder, "--out", tmp_path / "run", "--cache", tmp_path]
    said = launch("-m", "carclf", "train", *folders, "--cache-size", "40", "--stage", "all,1,1e-3,32")
    assert said.count("brand read from the name") == said.count("model: ") == 1
    assert carclf.Classifier.load(tmp_path / "run" / "model").card.threshold > 0
    (call,) = json.loads((tmp_path / "run" / "environment.json").read_text("utf-8"))
    assert call["processes"] == 2


def test_statistics_of_several_processes_are_those_of_one_after_the_other():
    photos = torch.randn(6, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1  # 6 micro-batches
    one, *layers = (nn.BatchNorm2d(4, momentum=0.3).train() for _ in range(4))
    for x in photos:
        one(x)
    sent = []

    def send(tensors):
        sent.append([t.clone() for t in tensors])
        return tensors

    statistics = [BatchStatistics(layer) for layer in layers]
    for rank, layer in enumerate(layers):
        for x in photos[2 * rank : 2 * rank + 2]:
            layer(x)
        statistics[rank].merge(SimpleNamespace(count=3, rank=rank, sum=send), 2)
    total = [sum(parts) for parts in zip(*sent, strict=True)]
    torch.testing.assert_close(total[0], one.running_mean)  # the sums are changes from 0
    torch.testing.assert_close(1 + total[1], one.running_var)  # and from 1
    assert int(layers[0].num_batches_tracked) == int(one.num_batches_tracked) == 6
    statistics[1].restore()
    assert torch.equal(layers[1].running_var, torch.ones(4))


def test_one_process_does_everything_by_itself():
    one = Processes.join("cpu")
    assert (one.count, one.rank, one.is_main) == (1, 0, True)
    assert one.part(["a", "b", "c"]) == [(0, "a"), (1, "b"), (2, "c")]
    assert Processes(3, 1, one.device).part(list("abcdef")) == [(2, "c"), (3, "d")]
    assert one.any(True)
    assert not one.any(False)
    tensor = torch.ones(2, requires_grad=True)
    assert one.sum([tensor])[0] is tensor
