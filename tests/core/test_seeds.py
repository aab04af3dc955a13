"""Seeds of a sample's transforms: one a sample, the same for everyone, always."""

from __future__ import annotations

from itertools import product

from onetake.core.seeds import sample_seed


def test_seeds_never_change_between_versions():
    assert sample_seed(17, 0, "", "a.mp4", 0) == 534725790202848329
    assert sample_seed(17, 3, "train", "süb/b.mkv", 1200, 2) == 7810452607021410072


def test_every_argument_tells():
    arguments = product((0, 1), (0, 1), ("", "s"), ("a", "b"), (0, 1), (0, 1))
    seeds = [sample_seed(*values) for values in arguments]
    assert len(set(seeds)) == len(seeds) == 64


def test_names_cannot_run_into_one_another():
    assert sample_seed(1, 2, "a", "b", 0) != sample_seed(1, 2, "a', 'b", "", 0)
    assert sample_seed(1, 23, "", "", 4) != sample_seed(12, 3, "", "", 4)


def test_seeds_fit_a_generator():
    seeds = [sample_seed(17, epoch, "s", "v", start) for epoch in range(20) for start in range(50)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed >> 55 for seed in seeds}) > 200  # the high bits are used
