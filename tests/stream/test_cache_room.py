"""How a cache's room is dealt out, in numbers; and that lanes always find room, whatever happens in what order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onetake.stream.cache import Room, default_limit, lane_bytes, limit_on_shared_disk, smallest_limit

#                limit, held, fixed, opened, ahead, reserve
ROOM = [
    # room, need, urgent -> what must go
    (Room(100, 0, 10, 0, 0, 30), 20, False, 0),
    (Room(100, 90, 10, 0, 0, 30), 20, False, 10),
    (Room(100, 90, 10, 0, 30, 30), 20, False, 10),
    (Room(100, 90, 10, 0, 50, 30), 20, False, None),  # the lanes' room is not for what is fetched ahead
    (Room(100, 90, 10, 30, 40, 30), 20, False, 10),
    (Room(100, 90, 10, 40, 40, 30), 20, False, None),  # they hold more than was foreseen
    (Room(100, 90, 10, 10, 70, 30), 20, True, 10),  # at the cost of what is ahead
    (Room(100, 90, 10, 80, 0, 30), 20, True, None),
    (Room(100, 120, 10, 0, 0, 30), 20, True, 40),  # more than it may hold, as an earlier run left it
]


@pytest.mark.parametrize("room, need, urgent, must_go", ROOM)
def test_what_must_go_for_a_segment(room, need, urgent, must_go):
    assert room.must_go(need, urgent) == must_go


def test_the_smallest_limit_is_that_of_the_heaviest_segments():
    sizes = np.array([5, 1, 9, 2, 7])
    assert smallest_limit(sizes, lanes=2, predownload=1, fixed=100) == (4, 9 + 7 + 5 + 2 + 100)
    assert smallest_limit(sizes, lanes=2, predownload=0, fixed=0) == (3, 9 + 7 + 5)
    assert smallest_limit(sizes, lanes=8, predownload=8, fixed=0) == (5, 24)
    assert lane_bytes(sizes, 2) == 9 + 7 + 5
    assert default_limit(900, 100) == 800


#            free, held -> of a default limit of 800 out of 1000 bytes
ON_SHARED_DISK = [(1000, 0, 800), (200, 800, 800), (700, 0, 500), (100, 600, 500), (0, 200, 50), (0, 0, 50)]


@pytest.mark.parametrize("free, held, limit", ON_SHARED_DISK)
def test_a_default_limit_falls_where_others_fill_the_disk(free, held, limit):
    assert limit_on_shared_disk(800, free, held, least=50) == limit


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["ahead", "open", "close"])), max_size=60),
)
def test_a_lane_always_finds_room(segments, steps):
    """Each lane has one segment open and fetches others ahead, in any order; the limit is the smallest."""
    lanes = len(segments)
    sizes = np.array(segments)
    limit = lane_bytes(sizes, lanes)
    opened: dict[int, int] = {}
    ahead: list[int] = []
    for lane, step in steps:
        lane %= lanes
        room = Room(limit, sum(opened.values()) + sum(ahead), 0, sum(opened.values()), sum(ahead), limit)
        if step == "close":
            opened.pop(lane, None)
        elif step == "open" and lane not in opened:
            must_go = room.must_go(segments[lane], True)
            assert must_go is not None
            while must_go > 0:  # what is ahead is enough for it
                must_go -= ahead.pop()
            opened[lane] = segments[lane]
        elif step == "ahead" and room.must_go(segments[lane], False) == 0:
            ahead.append(segments[lane])
        assert sum(opened.values()) + sum(ahead) <= limit
