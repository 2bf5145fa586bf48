import pytest
import torch
from torch.nn import functional as F

from carclf.model.device import Device
from carclf.train import loss as losses
from carclf.train.loss import CLASS_WEIGHTS, class_weights, one_cycle, preflight, weighted_loss

COUNTS = torch.tensor([700, 20, 100])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 33, 1001])
def test_the_lr_equals_torchs_onecycle_to_the_last_step(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps, cycle_momentum=False)
    expected = []
    for step in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            reference.step()
    assert [one_cycle(step, steps, 0.01) for step in range(steps)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [torch.ones(20), torch.rand(20)])
def test_the_loss_and_its_gradient_are_torchs_with_a_weight_for_the_whole_smoothed_loss_of_a_photo(smoothing, weights):
    logits, labels = torch.randn(20, 7, requires_grad=True), torch.randint(7, (20,))
    ours = weighted_loss(logits, labels, weights, smoothing)
    reference = (weights * F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")).sum()
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, reference)))


@pytest.mark.parametrize("kind", CLASS_WEIGHTS)
def test_class_weights_have_mean_one_over_the_photos(kind):
    weights = class_weights(COUNTS, kind)
    assert (weights * COUNTS).sum().item() == pytest.approx(COUNTS.sum().item(), rel=1e-5)
    assert weights.dtype == torch.float32


def test_inverse_weights_make_all_classes_count_the_same():
    total = class_weights(COUNTS, "inverse") * COUNTS
    torch.testing.assert_close(total, total.mean().expand(3))
    assert class_weights(COUNTS, "none").tolist() == [1, 1, 1]


def test_effective_numbers_follow_their_formula():
    beta = 1 - 3 / 820
    expected = torch.tensor([(1 - beta) / (1 - beta**n) for n in COUNTS.tolist()])
    weights = class_weights(COUNTS, "effective_number")
    torch.testing.assert_close(weights / weights.sum(), expected / expected.sum())
    assert torch.equal(class_weights(torch.tensor([1, 1, 1]), "effective_number"), torch.ones(3))


@pytest.fixture
def directml(torch_directml):
    return Device("directml", torch.float32)


class NoGradients(torch.autograd.Function):
    """What DirectML#739 does: the result is right, the gradient is exactly zero."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return torch.zeros_like(gradient)


def test_preflight_refuses_a_device_whose_gradients_are_zero(directml, monkeypatch):
    preflight(directml)
    calls = []

    def broken(logits, *rest):
        calls.append(1)
        return weighted_loss(NoGradients.apply(logits) if len(calls) == 2 else logits, *rest)

    monkeypatch.setattr(losses, "weighted_loss", broken)
    message = r"directml computes the gradient of 0.weight incorrectly: 100.0% away from the CPU's.*device='cpu'"
    with pytest.raises(RuntimeError, match=message):
        preflight(directml)


def test_preflight_refuses_a_device_whose_batchnorm_forgets(directml, monkeypatch):
    ordinary, calls = torch.nn.BatchNorm2d.forward, []

    def forgets(self, x):
        calls.append(1)
        y = ordinary(self, x)
        if len(calls) == 2:
            self.running_mean = torch.zeros(4)
        return y

    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", forgets)
    with pytest.raises(RuntimeError, match=r"computes the BatchNorm's 1.running_mean incorrectly"):
        preflight(directml)


@pytest.mark.parametrize("name", ["cpu", "cuda:1"])
def test_preflight_spends_no_time_on_trusted_devices(name, monkeypatch):
    monkeypatch.setattr(losses, "_small_step", lambda _: pytest.fail("computed"))
    preflight(Device(name, torch.float32))
