import pytest
import torch
from torch.nn import functional as F

from carclf.objective import CLASS_WEIGHTS, class_weights, one_cycle, weighted_loss


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 33, 1001])
def test_the_rate_equals_torchs_onecycle_to_the_last_step(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps, cycle_momentum=False)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            reference.step()
    assert [one_cycle(step, steps, 0.01) for step in range(steps)] == pytest.approx(rates, rel=1e-12)


def test_the_rate_climbs_to_its_peak_and_never_rebounds():
    rates = [one_cycle(step, 100, 1.0) for step in range(100)]
    peak = rates.index(max(rates))
    assert max(rates) == 1.0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_the_loss_is_torchs_cross_entropy(smoothing):
    logits, labels = torch.randn(20, 7), torch.randint(7, (20,))
    ours = weighted_loss(logits, labels, torch.ones(20), smoothing)
    reference = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(ours, reference)


def test_a_weight_multiplies_the_whole_smoothed_loss_of_its_photo():
    logits, labels, weights = torch.randn(20, 7), torch.randint(7, (20,)), torch.rand(20)
    each = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(weighted_loss(logits, labels, weights, 0.1), (weights * each).sum())


@pytest.mark.parametrize("kind", CLASS_WEIGHTS)
def test_class_weights_have_mean_one_over_the_photos(kind):
    counts = torch.tensor([700, 20, 100])
    weights = class_weights(counts, kind)
    assert (weights * counts).sum().item() == pytest.approx(counts.sum().item(), rel=1e-5)
    assert weights.dtype == torch.float32


def test_inverse_weights_make_all_classes_count_the_same():
    counts = torch.tensor([700, 20, 100])
    total = class_weights(counts, "inverse") * counts
    torch.testing.assert_close(total, total.mean().expand(3))
    assert class_weights(counts, "none").tolist() == [1, 1, 1]


def test_effective_numbers_follow_their_formula():
    counts = torch.tensor([700, 20, 100])
    beta = 1 - 3 / 820
    expected = torch.tensor([(1 - beta) / (1 - beta**n) for n in counts.tolist()])
    weights = class_weights(counts, "effective_number")
    torch.testing.assert_close(weights / weights.sum(), expected / expected.sum())
    assert torch.equal(class_weights(torch.tensor([1, 1, 1]), "effective_number"), torch.ones(3))
