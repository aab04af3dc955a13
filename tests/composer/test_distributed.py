"""Two ranks, started as ``composer -n 2`` does, share one rank's batches, and go on as one rank does."""

from __future__ import annotations

from tests.composer.training import Recorder, fit, two_ranks
from tests.resume_check import PLAN_OF_SEVERAL, check_resume


def test_two_ranks_share_the_batches_of_one_and_go_on_exactly(numbered, tmp_path):
    def run(root, jobs):
        return two_ranks(numbered, root, jobs)

    check_resume(run, tmp_path, fit(numbered, Recorder()), PLAN_OF_SEVERAL, processes=2)
