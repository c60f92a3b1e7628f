import numpy as np
import pytest

from cytoloop.scores.bootstrap import GroupBootstrap


def test_groups_are_resampled_not_pictures():
    """Two groups, one all 0 and one all 1: a resample is (0, 0), (0, 1), (1, 0) or (1, 1)."""
    scores = np.array([[0.0]] * 50 + [[1.0]] * 50)
    bootstrap = GroupBootstrap(["a"] * 50 + ["b"] * 50, samples=2000)
    values, counts = np.unique(bootstrap.image_means(scores)[:, 0], return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 2000, [0.25, 0.5, 0.25], atol=0.04)
    assert bootstrap.interval(bootstrap.image_means(scores)[:, 0]) == (0, 1)


def test_a_resample_pools_the_pictures_of_its_groups():
    bootstrap = GroupBootstrap(["a", "b", "a"], samples=50)
    sums = bootstrap.sums(np.array([1, 10, 100]))
    np.testing.assert_array_equal(sums, bootstrap.draws_SG @ [101, 10])
    assert set(sums.tolist()) <= {202.0, 111.0, 20.0}


def test_large_counts_stay_exact():
    counts = np.full((3, 2, 2), 2**40 + 1)
    sums = GroupBootstrap(["a", "b", "c"], samples=5).sums(counts)
    assert (sums == 3 * (2**40 + 1)).all()


def test_nan_is_left_out_and_a_resample_without_scores_is_nan():
    bootstrap = GroupBootstrap(["a", "b"], samples=200)
    means = bootstrap.image_means(np.array([[0.5], [np.nan]]))[:, 0]
    only_b = bootstrap.draws_SG[:, 0] == 0
    assert np.isnan(means[only_b]).all()
    assert (means[~only_b] == 0.5).all()
    assert bootstrap.interval(means) == (0.5, 0.5)


@pytest.mark.parametrize(("groups", "samples"), [(["a", "a"], 100), (["a", "b"], 0)])
def test_there_is_no_interval_without_groups_or_resamples(groups, samples):
    bootstrap = GroupBootstrap(groups, samples)
    means = bootstrap.image_means(np.full((len(groups), 1), 0.5))
    assert np.isnan(bootstrap.interval(means[:, 0])).all()


def test_the_interval_covers_a_known_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        scores = rng.normal(0.5, 0.1, (40, 1))
        bootstrap = GroupBootstrap([str(n) for n in range(40)], 300, confidence=0.9, seed=trial)
        low, high = bootstrap.interval(bootstrap.image_means(scores)[:, 0])
        hits += low <= 0.5 <= high
    assert 0.83 <= hits / 200 <= 0.96


def test_the_seed_decides():
    groups = list("abcdefgh")
    first, again, other = (GroupBootstrap(groups, 20, seed=s).draws_SG for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
