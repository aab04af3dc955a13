"""The flag by which one process of a rank stops the others, seen from two of them."""

from __future__ import annotations

import copy

import pytest

from onetake.core.errors import SourceError
from onetake.stream.flag import SharedFlag


@pytest.fixture
def main() -> SharedFlag:
    flag = SharedFlag()
    flag.begin()
    flag.join()
    return flag


@pytest.fixture
def worker(main) -> SharedFlag:
    """The same flag in another process: what is shared is shared, what is not is its own."""
    return copy.copy(main)


def test_it_goes_up_for_all_with_the_reason(main, worker):
    assert not main.is_set()
    worker.set(3, SourceError("the video is gone"))
    assert main.is_set()
    assert main.value == 3
    assert isinstance(main.error, SourceError)
    assert str(main.error) == "the video is gone"


def test_the_first_reason_stays(main, worker):
    worker.set(3, SourceError("first"))
    main.set(4, SourceError("second"))
    assert worker.value == 3
    assert str(worker.error) == "first"


@pytest.mark.parametrize("error", [None, ValueError("not ours"), SourceError("long" * 2000)])
def test_an_error_that_cannot_go_along_is_left_behind(main, worker, error):
    worker.set(3, error)
    assert main.is_set()
    assert main.error is None


def test_a_late_process_still_sees_the_flag_of_its_iteration(main, worker):
    worker.set(3)
    main.begin()
    main.join()
    assert not main.is_set()
    assert worker.is_set()  # else it would go on with what nobody waits for
    worker.join()
    assert not worker.is_set()


def test_a_late_process_raises_no_flag_of_a_new_iteration(main, worker):
    main.begin()
    main.join()
    worker.set(3)
    assert worker.is_set()
    assert not main.is_set()


def test_a_late_process_stops_when_a_new_iteration_fails(main, worker):
    main.begin()
    main.join()
    main.set(3)
    assert worker.is_set()
