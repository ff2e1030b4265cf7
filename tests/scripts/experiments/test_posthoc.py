"""Methods on stored codes: closed forms, scikit-learn and imbalanced-learn as oracles."""

import argparse
import copy

import numpy as np
import pytest
import torch
from imblearn.over_sampling import SMOTE
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from torch import nn

import augment
from helpers.runs import run_without_folder
from models.classifier import CosineClassifier
from models.samplers import FeatureTransferSampler, PosteriorSampler
from scripts.experiments import posthoc
from scripts.experiments.posthoc import METHODS, SmoteSampler, TrainedCodes
from utils.errors import UserError
from utils.training.optimisation import build_scheduler, build_sgd, step_schedule
from utils.training.position import Position

COUNTS = (300, 60, 12)
CENTRES = torch.tensor([[0.0, 0.0, 0.0], [1.2, 0.0, 0.4], [0.0, 1.2, -0.4]])


def draw(counts: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping classes of codes, (N,3), and their labels."""
    source = torch.Generator().manual_seed(seed)
    targets = torch.arange(3).repeat_interleave(torch.tensor(counts))
    return CENTRES[targets] + 0.5 * torch.randn(len(targets), 3, generator=source), targets


@pytest.fixture(scope="module")
def codes() -> TrainedCodes:
    """Codes of three classes and a linear classifier that was fitted to them without balance."""
    mu, targets = draw(COUNTS, 0)
    classifier = nn.Linear(3, 3)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(classifier(mu), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return TrainedCodes(mu, torch.full_like(mu, 0.1), targets, classifier, seed=0)


def probabilities(name: str, codes: TrainedCodes, value: float | str) -> np.ndarray:
    found = METHODS[name].fit(codes, value)(draw((50, 50, 50), 1)[0])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    return found


def recall_of_tail(name: str, codes: TrainedCodes, value: float | str) -> float:
    return float((probabilities(name, codes, value)[100:].argmax(axis=1) == 2).mean())


def test_logit_adjustment_divides_by_class_shares(codes):
    trained, adjusted = probabilities("trained", codes, ""), probabilities("logit-adjustment", codes, 0.5)
    expected = trained / np.sqrt(COUNTS)
    np.testing.assert_allclose(adjusted, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_tau_normalisation_divides_weights_and_drops_the_bias(codes, tau):
    weight = codes.classifier.weight.detach().numpy()
    scores = draw((50, 50, 50), 1)[0].numpy() @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** tau).T
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities("tau-normalisation", codes, tau), expected, rtol=1e-4)


def test_nearest_mean_is_that_of_scikit_learn(codes):
    model = NearestCentroid().fit(codes.mu.numpy(), codes.targets.numpy())
    expected = model.predict(draw((50, 50, 50), 1)[0].numpy())
    found = probabilities("ncm", codes, "euclidean")
    assert found.argmax(axis=1).tolist() == expected.tolist()
    distances = torch.cdist(draw((50, 50, 50), 1)[0].double(), torch.from_numpy(model.centroids_).double())
    np.testing.assert_allclose(found, (-distances.square()).softmax(dim=1), rtol=1e-3)
    longer = codes._replace(mu=codes.mu * torch.arange(1, len(codes.mu) + 1)[:, None])
    np.testing.assert_allclose(probabilities("ncm", longer, "unit"), probabilities("ncm", codes, "unit"), rtol=1e-3)


def test_linear_discriminants_part_two_equal_spreads_in_the_middle():
    """With equal class shares the border is half-way, whatever the counts."""
    source = torch.Generator().manual_seed(0)
    targets = torch.tensor([0] * 4000 + [1] * 400)
    mu = 3.0 * targets[:, None] + torch.randn(4400, 1, generator=source)
    found = METHODS["lda"].fit(TrainedCodes(mu, mu, targets, nn.Linear(1, 2), 0), 0.0)
    grid = torch.linspace(-1, 4, 501)[:, None]
    border = grid[int(np.argmax(found(grid)[:, 1] > 0.5))].item()
    assert border == pytest.approx(1.5, abs=0.08)


@pytest.mark.parametrize("shrinkage", [0.01, 0.9])
def test_linear_discriminants_are_those_of_scikit_learn_with_the_shrinkage(shrinkage, codes):
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage, priors=[1 / 3] * 3)
    model.fit(codes.mu.double().numpy(), codes.targets.numpy())
    expected = model.predict_proba(draw((50, 50, 50), 1)[0].double().numpy())
    np.testing.assert_allclose(probabilities("lda", codes, shrinkage), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("lda", 0.1), ("ncm", "euclidean")])
def test_codes_that_do_not_suffice_are_one_line(name, value):
    """One image of each class, all with the same code."""
    codes = TrainedCodes(torch.zeros(3, 3), torch.zeros(3, 3), torch.arange(3), nn.Linear(3, 3), 0)
    with pytest.raises(UserError, match=rf"^{name}: .*\(leave this method out, or give another --fixed\)$"):
        probabilities(name, codes, value)


@pytest.mark.parametrize("name", ["crt", "lws", "smote", "case-1", "case-2", "case-1-adjusted", "case-2-adjusted"])
def test_re_training_favours_the_tail_repeats_and_leaves_the_classifier_as_it_was(codes, name):
    before = [value.clone() for value in codes.classifier.parameters()]
    found = probabilities(name, codes, 0.1)
    assert recall_of_tail(name, codes, 0.1) > recall_of_tail("trained", codes, "") + 0.1
    assert np.array_equal(found, probabilities(name, codes, 0.1))
    assert all(map(torch.equal, before, codes.classifier.parameters()))


@pytest.mark.parametrize(
    ("name", "kind", "noisy", "adjusted"),
    [
        ("smote", SmoteSampler, False, False),
        ("case-1", FeatureTransferSampler, True, False),
        ("case-1-adjusted", FeatureTransferSampler, True, True),
        ("case-2", PosteriorSampler, True, False),
        ("case-2-adjusted", PosteriorSampler, True, True),
    ],
)
def test_re_training_is_from_the_start_and_on_the_codes_of_its_name(name, kind, noisy, adjusted, codes, monkeypatch):
    seen = []
    monkeypatch.setattr(posthoc, "retrained", lambda *args: seen.append(args) or args[0])
    METHODS[name].fit(codes._replace(seed=4), 0.03)
    ((start, sampler, lr, seed),) = seen
    assert (type(sampler), bool(sampler.sigma.any())) == (kind, noisy)
    assert (lr, seed, sampler.seed) == (0.03, 4, 4)
    assert len(sampler.targets) == (3 * max(COUNTS) if name == "smote" else sum(COUNTS))
    shift = (torch.tensor(COUNTS) / sum(COUNTS)).log() if adjusted else torch.zeros(3)
    torch.testing.assert_close(start.bias, codes.classifier.bias - shift)
    assert torch.equal(start.weight, codes.classifier.weight)


@pytest.mark.parametrize("name", ["crt", "lws"])
def test_layer_and_scales_are_learned_on_the_codes_themselves(name, codes, monkeypatch):
    seen = []
    monkeypatch.setattr(posthoc, "retrained", lambda *args: seen.append(args) or args[0])
    for seed in (4, 4, 5):
        METHODS[name].fit(codes._replace(seed=seed), 0.03)
    starts, samplers, rates, seeds = zip(*seen, strict=True)
    assert (rates, seeds, [sampler.seed for sampler in samplers]) == ((0.03,) * 3, (4, 4, 5), [4, 4, 5])
    assert {(type(sampler), bool(sampler.sigma.any())) for sampler in samplers} == {(PosteriorSampler, False)}
    if name == "crt":
        assert torch.equal(starts[0].weight, starts[1].weight)
        assert not torch.equal(starts[0].weight, starts[2].weight)


def test_re_training_takes_the_steps_of_augment(codes):
    """With the flags that stand beside `EPOCHS`, over all its epochs; so long codes have gradients to clip."""
    args = argparse.Namespace(
        **{"lr": 0.1, "momentum": 0.9, "wd": 1e-4, "clip_grad": 5.0, "seed": 3, "batch_size": 100, "T_max": 10},
        **{"lr_warmup_epochs": 0, "max_steps": None, "print_freq": 100, "save_every": 0, "quiet": True},
    )
    model = nn.Module()
    model.classifier, model.z_dim = copy.deepcopy(codes.classifier), 3
    sampler = PosteriorSampler(20 * codes.mu, 20 * codes.sigma, codes.targets, 3, args.seed)
    run = run_without_folder(args, model, build_sgd(model.classifier.parameters(), args), kind="aug")
    scheduler = build_scheduler(run.optimizer, args, [args.lr], 0)
    for run.epoch in range(10):
        run.position = Position()
        augment.train_epoch(run, sampler)
        step_schedule(scheduler)
    found = posthoc.retrained(copy.deepcopy(codes.classifier), sampler, args.lr, args.seed)
    torch.testing.assert_close(found.weight, model.classifier.weight)
    torch.testing.assert_close(found.bias, model.classifier.bias)


def test_crt_does_not_start_at_the_trained_classifier(codes):
    other = codes._replace(classifier=nn.Linear(3, 3))
    assert np.array_equal(probabilities("crt", codes, 0.1), probabilities("crt", other, 0.1))
    assert not np.array_equal(probabilities("smote", codes, 0.1), probabilities("smote", other, 0.1))


def test_weight_scaling_learns_one_factor_a_class(codes):
    mu = draw((50, 50, 50), 1)[0]
    scores = np.log(probabilities("lws", codes, 0.1))
    logits = codes.classifier(mu).detach().numpy()
    differences = scores - scores[:, :1]  # s_c x_c - s_0 x_0, linear in two unknowns
    for c in (1, 2):
        unknown, residual, *_ = np.linalg.lstsq(np.stack([logits[:, c], -logits[:, 0]], axis=1), differences[:, c])
        assert residual[0] < 1e-6
        assert unknown[0] > 0


def test_a_classifier_by_the_cosine_is_re_trained_as_one(codes):
    cosine = codes._replace(classifier=CosineClassifier(3, 3))
    assert not cosine.linear
    assert isinstance(METHODS["crt"].fit(cosine, 0.01)(codes.mu[:4]), np.ndarray)


def filled_up(mu: np.ndarray, targets: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes and labels of all, as batches of a plan have them."""
    classifier = nn.Linear(mu.shape[1], targets.max() + 1)
    sampler = SmoteSampler(
        TrainedCodes(torch.from_numpy(mu), torch.zeros(0), torch.from_numpy(targets), classifier, seed)
    )
    everything = torch.arange(len(sampler.targets))
    return sampler.codes(everything, sampler.targets, torch.zeros(0)).numpy(), sampler.targets.numpy()


def test_smote_draws_what_imbalanced_learn_draws():
    """The same classes and neighbours; imbalanced-learn draws other numbers, so means and spreads are compared."""
    mu, targets = (part.numpy() for part in draw((2000, 40, 30), 0))
    own, labels = filled_up(mu, targets, seed=0)
    theirs, their_labels = SMOTE(k_neighbors=5, random_state=0).fit_resample(mu, targets)
    assert np.bincount(labels).tolist() == np.bincount(their_labels).tolist() == [2000] * 3
    assert np.array_equal(own[: len(mu)], mu)
    assert np.array_equal(labels[: len(mu)], targets)
    for label in (1, 2):
        mine, other = (
            codes[len(mu) :][kinds[len(mu) :] == label] for codes, kinds in ((own, labels), (theirs, their_labels))
        )
        np.testing.assert_allclose(mine.mean(axis=0), other.mean(axis=0), atol=0.05)
        np.testing.assert_allclose(np.cov(mine.T), np.cov(other.T), atol=0.05)


def test_smote_codes_lie_between_a_code_and_one_of_its_nearest():
    mu, targets = (part.numpy().astype(np.float64) for part in draw((200, 30, 3), 0))
    targets = targets.astype(np.int64)
    made, labels = filled_up(mu, targets, seed=1)
    for label, neighbours in ((1, 5), (2, 2)):  # a class of three has two neighbours
        own = mu[targets == label]
        distances = np.linalg.norm(own[:, None] - own, axis=2)
        pairs = [(i, j) for i in range(len(own)) for j in np.argsort(distances[i])[1 : neighbours + 1]]
        starts, ends = (own[list(side)] for side in zip(*pairs, strict=True))
        used = set()
        for code in made[len(mu) :][labels[len(mu) :] == label]:
            shares = ((code - starts) * (ends - starts)).sum(axis=1) / ((ends - starts) ** 2).sum(axis=1)
            misses = np.linalg.norm(starts + shares[:, None] * (ends - starts) - code, axis=1)
            hits = (misses < 1e-9) & (shares >= 0) & (shares <= 1)
            assert hits.any()
            used.add(frozenset(pairs[hits.argmax()]))
        assert label == 1 or len(used) == 3  # of three codes every two


def test_smote_repeats_a_single_code():
    made, labels = filled_up(np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([0, 0, 0, 1]), seed=0)
    assert made[labels == 1].tolist() == [[9.0]] * 3
