"""Losses against dense and hand-computed values; all-pairs matching against the N x N matrix."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.losses.duld import active_units, attract, detector_mse, elbo, pose_contrast, repel, within_margin
from uld.losses.silk import Matches, all_pairs, detector_bce, matching_nll, round_trips

TAU = 0.05


def descriptors(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return F.normalize(x, dim=-1).requires_grad_()


def masks(seed: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=rng) < 0.7, torch.rand(shape, generator=rng) < 0.7


def dense(a: Tensor, b: Tensor, valid_a: Tensor, valid_b: Tensor) -> Matches:
    """The same with the whole matrix at hand, one image and one descriptor after the other."""
    shape = a.shape[:2]
    lse, best = [torch.zeros(shape, dtype=a.dtype) for _ in "ab"], [torch.zeros(shape, dtype=torch.int64) for _ in "ab"]
    for n in range(shape[0]):
        logits = a[n] @ b[n].T / TAU
        for side, (table, own, other) in enumerate([(logits, valid_a, valid_b), (logits.T, valid_b, valid_a)]):
            partners = other[n].nonzero()[:, 0]
            for i in own[n].nonzero()[:, 0] if len(partners) else []:
                lse[side][n, i] = table[i, partners].exp().sum().log()
                best[side][n, i] = partners[table[i, partners].argmax()]
    return Matches(lse[0], lse[1], best[0], best[1])


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 64])
def test_all_pairs_equals_the_dense_form(chunk: int) -> None:
    a, b = descriptors(0, (5, 20, 4)), descriptors(1, (5, 20, 4))
    valid_a, valid_b = masks(2, (5, 20))
    valid_b[1] = False  # no column
    valid_a[2] = False  # no row
    valid_a[3] = valid_b[3] = True
    valid_a[4, :7] = False  # no row in the first chunks
    found, want = all_pairs(a, b, valid_a, valid_b, TAU, chunk), dense(a, b, valid_a, valid_b)
    torch.testing.assert_close(found.lse_a, want.lse_a, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.lse_b, want.lse_b, rtol=0, atol=1e-10)
    assert torch.equal(found.best_a, want.best_a)
    assert torch.equal(found.best_b, want.best_b)
    assert not found.best_a.requires_grad

    weight_a, weight_b = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(3), dtype=a.dtype)
    loss, truth = ((weight_a * m.lse_a).sum() + (weight_b * m.lse_b**2).sum() for m in (found, want))
    for mine, theirs in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(truth, (a, b)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [2, 5])
def test_all_pairs_gradcheck(chunk: int) -> None:
    a, b = descriptors(0, (2, 5, 3)), descriptors(1, (2, 5, 3))
    valid_a, valid_b = masks(5, (2, 5))

    def sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        found = all_pairs(a, b, valid_a, valid_b, 0.5, chunk)
        return found.lse_a, found.lse_b

    assert torch.autograd.gradcheck(sums, (a, b))


def test_all_pairs_of_large_logits_stays_finite() -> None:
    a = torch.eye(3)[None].requires_grad_()
    found = all_pairs(a, a, *[torch.ones(1, 3, dtype=torch.bool)] * 2, 1e-3, 2)  # exp(1000) overflows
    torch.testing.assert_close(torch.stack([found.lse_a, found.lse_b]), torch.full((2, 1, 3), 1000.0))
    found.lse_b.sum().backward()
    torch.testing.assert_close(a.grad, 2000 * torch.eye(3)[None])


def test_all_pairs_of_one_descriptor() -> None:
    a, b = descriptors(0, (1, 1, 4)), descriptors(1, (1, 1, 4))
    true = torch.ones(1, 1, dtype=torch.bool)
    found = all_pairs(a, b, true, true, TAU)
    torch.testing.assert_close(found.lse_a, (a * b).sum(2) / TAU)
    torch.testing.assert_close(found.lse_b, found.lse_a)
    assert matching_nll(a, b, found, torch.zeros(1, 1, dtype=torch.int64), TAU).item() == pytest.approx(0)


def test_all_rows_masked_give_no_gradient_and_no_nan() -> None:
    a, b = descriptors(0, (2, 6, 3)), descriptors(1, (2, 6, 3))
    false = torch.zeros(2, 6, dtype=torch.bool)
    found = all_pairs(a, b, false, false, TAU, 4)
    assert not any(x.any() for x in (found.lse_a, found.lse_b, found.best_a, found.best_b))
    loss = matching_nll(a, b, found, torch.full((2, 6), -1), TAU)
    (loss + found.lse_a.sum() + found.lse_b.sum()).backward()
    assert loss == 0
    assert torch.equal(a.grad, torch.zeros_like(a)) and torch.equal(b.grad, torch.zeros_like(b))


def test_matching_nll_by_hand() -> None:
    # cosines [[.8, .6], [0, -1]] at temperature .5: logits [[1.6, 1.2], [0, -2]]
    a = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    b = torch.tensor([[[0.8, 0.0], [0.6, -1.0]]], dtype=torch.float64)
    found = all_pairs(a, b, *[torch.ones(1, 2, dtype=torch.bool)] * 2, 0.5)

    def over(*logits: float) -> float:
        return math.log(sum(map(math.exp, logits)))

    crossed = matching_nll(a, b, found, torch.tensor([[1, -1]]), 0.5)
    assert crossed.item() == pytest.approx(over(1.6, 1.2) - 1.2 + over(1.2, -2) - 1.2)
    straight = matching_nll(a, b, found, torch.tensor([[0, 1]]), 0.5)
    each = over(1.6, 1.2) - 1.6 + over(1.6, 0) - 1.6, over(0, -2) + 2 + over(1.2, -2) + 2
    assert straight.item() == pytest.approx(sum(each) / 2)


def test_matching_nll_starts_at_twice_the_log_of_the_number() -> None:
    a, b = descriptors(0, (3, 200, 256)), descriptors(1, (3, 200, 256))
    found = all_pairs(a, b, *[torch.ones(3, 200, dtype=torch.bool)] * 2, 1.0)
    loss = matching_nll(a, b, found, torch.arange(200).repeat(3, 1), 1.0)
    assert loss.item() == pytest.approx(2 * math.log(200), abs=0.02)


def test_matching_nll_falls_along_its_gradient() -> None:
    a, b = descriptors(0, (1, 30, 8)), descriptors(1, (1, 30, 8))
    valid = torch.ones(1, 30, dtype=torch.bool)
    partner = torch.randperm(30, generator=torch.Generator().manual_seed(2))[None]

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return matching_nll(a, b, all_pairs(a, b, valid, valid, TAU, 8), partner, TAU)

    start = loss(a, b)
    slope = torch.autograd.grad(start, (a, b))
    assert loss(a - 1e-3 * slope[0], b - 1e-3 * slope[1]) < start


def matched(best_a: list[int], best_b: list[int]) -> Matches:
    lse = torch.zeros(1, len(best_a), requires_grad=True)
    return Matches(lse, lse, torch.tensor([best_a]), torch.tensor([best_b]))


NAN = math.nan


def test_round_trips_of_permutations() -> None:
    # all best matches are the true ones, but cell 2 of b chooses cell 4, which has no true match, and not cell 3
    best_a, best_b = [1, 0, 3, 2, 4], [1, 0, 4, 2, 3]
    partner = torch.tensor([[1, 0, 3, 2, -1]])
    success_a, success_b = round_trips(matched(best_a, best_b), partner, 5, 0)
    torch.testing.assert_close(success_a, torch.tensor([[1, 1, 1, 0, NAN]]), equal_nan=True)
    torch.testing.assert_close(success_b, torch.tensor([[1, 1, 0, 1, NAN]]), equal_nan=True)
    assert not success_a.requires_grad and not success_b.requires_grad


@pytest.mark.parametrize(
    ("best", "truth", "reach"),
    [(5, 5, 0), (5, 4, 1), (4, 5, 1), (5, 1, 1), (5, 0, 1), (4, 6, 2), (12, 4, 2), (3, 4, 3), (4, 3, 3), (0, 15, 3)],
)
def test_round_trips_within_tolerance(best: int, truth: int, reach: int) -> None:
    """On 4 x 4 cells, cell 9 and its best match choose each other; the true one is `reach` cells off in x or y."""
    best_a, best_b, partner = [0] * 16, [15] * 16, [-1] * 16
    best_a[9], best_b[best], partner[9] = best, 9, truth
    for tolerance in (0, 0.5, 1, 2, 3):
        success = round_trips(matched(best_a, best_b), torch.tensor([partner]), 4, tolerance)
        for found, cell in zip(success, (9, truth), strict=True):
            assert found[0].isnan().sum() == 15
            assert found[0, cell] == float(tolerance >= reach)


def test_round_trips_keep_images_apart() -> None:
    two = Matches(*torch.zeros(2, 2, 2), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1, 1], [1, 0]]))
    success_a, success_b = round_trips(two, torch.tensor([[0, 1], [1, 0]]), 2, 0)
    assert success_a.tolist() == [[0, 1], [1, 1]]
    assert success_b.tolist() == [[0, 1], [1, 1]]


def test_detector_bce() -> None:
    logits = torch.tensor([[0.0, math.log(3), 5.0], [math.log(3), -7.0, 9.0]], requires_grad=True)
    success = torch.tensor([[1.0, 1.0, NAN], [0.0, NAN, NAN]])
    loss = detector_bce(logits, success)  # probabilities 1/2, 3/4 and 3/4
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1 / 2, -1 / 4, 0], [3 / 4, 0, 0]]) / 3)


def test_detector_mse() -> None:
    heat = torch.tensor([[[0.5, 0.25], [1.0, 0.0]]], requires_grad=True)
    target = torch.tensor([[[1.0, 0.0], [NAN, 1.0]]])
    loss = detector_mse(heat, target, torch.tensor([[[True, True], [False, False]]]))
    assert loss.item() == pytest.approx((0.25 + 0.0625) / 2)
    loss.backward()
    torch.testing.assert_close(heat.grad, torch.tensor([[[-0.5, 0.25], [0, 0]]]))


def test_detector_losses_of_nothing_are_0() -> None:
    heat = torch.ones(2, 3, 3, requires_grad=True)
    false = torch.zeros(2, 3, 3, dtype=torch.bool)
    loss = detector_bce(heat, torch.full((2, 3, 3), NAN)) + detector_mse(heat, torch.zeros(2, 3, 3), false)
    loss.backward()
    assert loss == 0
    assert torch.equal(heat.grad, torch.zeros(2, 3, 3))


def test_attract_and_repel_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.3, 0.4], [1.0, 2.0], [0.0, 4.0], [0.0, 0.8]], dtype=torch.float64)
    assert attract(a, b).tolist() == pytest.approx([0.25, 0, 25, 0.64])
    loss = repel(a, b, 0.8)
    assert loss.tolist() == pytest.approx([0.09, 0.64, 0, 0])
    loss.sum().backward()  # -2 (0.8 - 0.5) (a - b) / 0.5: away from b
    torch.testing.assert_close(a.grad, torch.tensor([[0.36, 0.48], [0, 0], [0, 0], [0, 0]], dtype=torch.float64))
    assert repel(a[:, None], b[None], 0.8).shape == (4, 4)


# --- codes ---


def test_elbo_by_hand() -> None:
    """Two images of 1 x 2 cells; probabilities 1/2, 3/4, 1/4 and 1/2. Units: KL of N(mu, s^2) to N(0, 1)."""
    logits = torch.tensor([[[[0.0, math.log(3)]]], [[[-math.log(3), 0.0]]]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[[1.0, 0.5]]], [[[0.0, 0.0]]]], dtype=torch.float64)
    mu = torch.tensor([[1.0, 0.1, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([[0.0, 0.0, 0.0], [math.log(4), 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss, reconstruction, kl = elbo(logits, target, mu, logvar, 0.3, 0.05)
    first = math.log(2) + (math.log(4 / 3) + math.log(4)) / 2
    assert reconstruction.item() == pytest.approx((first + math.log(4 / 3) + math.log(2)) / 2)
    # unit 0: (1 / 2 + (9 + 4 - 1 - log 4) / 2) / 2; unit 1: 0.0025 and unit 2: 0, both less than what is free
    assert kl.item() == pytest.approx((0.5 + (12 - math.log(4)) / 2) / 2 + 2 * 0.05)
    assert loss.item() == pytest.approx(reconstruction.item() + 0.3 * kl.item())
    loss.backward()
    slope = torch.tensor([[[[-0.5, 0.25]]], [[[0.25, 0.5]]]], dtype=torch.float64) / 2
    torch.testing.assert_close(logits.grad, slope)
    wanted = torch.tensor([[1.0, 0, 0], [3.0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(mu.grad, 0.3 * wanted / 2)  # no pull on units below
    wanted = torch.tensor([[0.0, 0, 0], [(4 - 1) / 2, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(logvar.grad, 0.3 * wanted / 2)


def test_elbo_agrees_with_the_library_and_grows_with_the_map() -> None:
    rng = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 5, 7, generator=rng, dtype=torch.float64)
    logits, target = torch.zeros(5, 1, 8, 8), torch.rand(5, 1, 8, 8, generator=rng)
    _, reconstruction, kl = elbo(logits, target, mu, logvar, 1.0, 0.0)
    units = torch.distributions.Normal(mu, (logvar / 2).exp())
    want = torch.distributions.kl_divergence(units, torch.distributions.Normal(torch.zeros_like(mu), 1.0))
    assert kl.item() == pytest.approx(want.sum(1).mean().item())
    assert reconstruction.item() == pytest.approx(64 * math.log(2))


def test_free_bits_are_of_the_batch_and_not_of_an_image() -> None:
    """Units of KL 0.02 and 0.12: 0.07 on average, above 0.05, though one is below."""
    mu = torch.tensor([[0.2], [math.sqrt(0.24)]])
    empty = torch.zeros(2, 1, 1, 1)
    assert elbo(empty, empty, mu, torch.zeros(2, 1), 1.0, 0.05)[2].item() == pytest.approx(0.07)


def test_elbo_of_no_images() -> None:
    mu, maps = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 1, 4, 4)
    loss, reconstruction, kl = elbo(maps, maps, mu, mu, 1.0, 0.05)
    loss.backward()
    assert (reconstruction.item(), kl.item()) == (0, pytest.approx(0.15)) and mu.grad is not None


def test_pose_contrast_by_hand() -> None:
    """Distances 5, 2 and none; shortfalls from 3: 1, none (4 is far enough) and 0.5. Each mean is over its own."""
    code = torch.tensor([[0.0, 0.0], [1.0, 1.0], [4.0, 4.0]], dtype=torch.float64, requires_grad=True)
    same = torch.tensor([[3.0, 4.0], [1.0, 3.0], [NAN, NAN]], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[0.0, -2.0], [5.0, 1.0], [4.0, 6.5]], dtype=torch.float64, requires_grad=True)
    loss = pose_contrast(code, same, other, 3.0)
    assert loss.item() == pytest.approx(7 / 2 + 1.5 / 3, abs=1e-5)
    loss.backward()
    near = {"atol": 1e-5, "rtol": 0}
    pull = torch.tensor([[0.6, 0.8], [0, 1], [0, 0]], dtype=torch.float64) / 2
    push = torch.tensor([[0, 1], [0, 0], [0, -1]], dtype=torch.float64) / 3  # downhill is away from the code
    torch.testing.assert_close(same.grad, pull, **near)
    torch.testing.assert_close(other.grad, push, **near)
    torch.testing.assert_close(code.grad, -pull - push, **near)  # towards the same pose, away from the other


def test_pose_contrast_of_equal_codes_and_of_nothing() -> None:
    code = torch.full((2, 3), 0.5, requires_grad=True)
    loss = pose_contrast(code, code.detach(), code.detach(), 0.8)
    assert loss.item() == pytest.approx(0.8, abs=1e-6)  # the roots of the two eps cancel out
    none = torch.full((2, 3), NAN)
    loss = loss + pose_contrast(code, none, none, 0.8)
    loss.backward()
    assert loss.item() == pytest.approx(0.8, abs=1e-6) and torch.equal(code.grad, torch.zeros(2, 3))
    apart = torch.tensor([[0.5, 0.5, 0.5], [NAN, NAN, NAN]])
    assert pose_contrast(code, apart, none, 0.8).item() == pytest.approx(1e-3)
    assert pose_contrast(code, none, apart, 0.8).item() == pytest.approx(0.8 - 1e-3)


def test_codes_within_the_margin() -> None:
    """Distances 1, 2, 3 and none."""
    other = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [NAN, NAN]])
    code = torch.zeros(4, 2)
    assert [within_margin(code, other, m).item() for m in (0.5, 1.5, 2.5, 9)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert within_margin(code, torch.full((4, 2), NAN), 1.0).item() == 0


def test_active_units() -> None:
    """Variances 0.01 x 1.02^2 and 0.01 x 0.98^2 about another mean each; nothing at all; 1."""
    sign = torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None]
    mu = torch.tensor([7.0, -3.0, 5.0, 0.0]) + sign * torch.tensor([0.102, 0.098, 0.0, 1.0])
    assert active_units(mu) == 2 and active_units(mu[:, 1:]) == 1
    assert active_units(mu[:2]) == 2 and active_units(mu[:1]) == 0
