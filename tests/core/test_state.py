"""The resume state: small, plain, and refused in words where it does not fit."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onetake.core.errors import OnetakeError, ResumeError
from onetake.core.state import (
    STATE_VERSION,
    check_order,
    cursor_seconds,
    pack_cursors,
    read_state,
    read_units,
    unpack_cursors,
)

law = settings(max_examples=150)

video_ids = st.sampled_from(["a.mp4", "sub/b.mkv", "ü b.mov", ""]) | st.text(max_size=8)
cursors = st.lists(st.none() | st.tuples(video_ids, st.integers(0, 2**40)), max_size=30)

GOOD = {
    "epoch": 2,
    "sample_in_epoch": 96,
    "num_canonical_nodes": 1,
    "shuffle_seed": 17,
    "initial_physical_nodes": 1,
    "onetake": {
        "version": STATE_VERSION,
        "order": {"seed": 17, "lanes": [4, 2]},
        "cursors": {"video_ids": ["a.mp4", "b.mp4"], "lanes": [[0, 12], [1, 0], [-1, 0], [0, 300]]},
    },
}


def without(*path):
    """GOOD without what stands at ``path``."""
    state = json.loads(json.dumps(GOOD))
    at = state
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    return state


def with_(value, *path):
    """GOOD with ``value`` at ``path``."""
    state = json.loads(json.dumps(GOOD))
    at = state
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return state


@law
@given(cursors)
def test_cursors_come_back_as_they_were(lanes):
    packed = pack_cursors(lanes, [0.04] * len(lanes))
    assert unpack_cursors(packed) == lanes
    assert unpack_cursors(json.loads(json.dumps(packed))) == lanes
    assert len(set(packed["video_ids"])) == len(packed["video_ids"])


def test_cursors_tell_the_time_of_every_lane():
    packed = pack_cursors([("b", 50), None, ("a", 30), ("b", 100), ("c", 7)], [0.04, 0.0, 1 / 30, 0.04, 0.04])
    assert cursor_seconds(packed) == pytest.approx([2.0, None, 1.0, 4.0, 0.28])
    assert packed["frame_seconds"] == [[1 / 30, 1], [0.04, 2]]
    with pytest.raises(ResumeError, match="damaged"):
        cursor_seconds({**packed, "frame_seconds": []})
    with pytest.raises(ResumeError, match="damaged"):
        cursor_seconds({**packed, "frame_seconds": [[0.04, 10**12], [0.04, 3 - 10**12]]})


LANES = [
    # 500 lanes in as many videos, in one, in long videos, and half of them done
    [(f"video/{i:05d}.mp4", 37 * i) for i in range(500)],
    [("one.mp4", 90_000 + i) for i in range(500)],
    [(f"video/{i % 7}.mp4", 10_000_000 + i) for i in range(500)],
    [(f"video/{i}.mp4", 70_000) if i % 2 else None for i in range(500)],
]


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])  # torch.save writes protocol 2
@pytest.mark.parametrize("lanes", LANES, ids=["many videos", "one video", "long videos", "half done"])
def test_a_lane_costs_at_most_16_bytes_and_each_video_its_name_once(lanes, protocol):
    ids = {at[0] for at in lanes if at}
    names = len(pickle.dumps(sorted(ids), protocol))
    envelope = len(pickle.dumps(pack_cursors([], []), protocol))
    assert len(pickle.dumps(pack_cursors(lanes, [0.04] * len(lanes)), protocol)) <= 16 * len(lanes) + names + envelope


def test_a_good_state_is_read():
    cursors = [("a.mp4", 12), ("b.mp4", 0), None, ("a.mp4", 300)]
    assert read_state(GOOD) == (2, 96, {"seed": 17, "lanes": [4, 2]}, cursors)


NOT_OURS = "the state was not saved by onetake: it has no cursors; start without it"
REFUSED = [
    ({}, NOT_OURS),
    (without("onetake"), NOT_OURS),
    (without("epoch"), NOT_OURS),
    (without("sample_in_epoch"), NOT_OURS),
    (with_("text", "onetake"), NOT_OURS),
    (with_(99, "onetake", "version"), "the state has version 99, this onetake reads version 1; resume with the one"),
    (without("onetake", "version"), "the state has version None, this onetake reads version 1"),
    (without("onetake", "order"), "the state is damaged (KeyError('order')); load another checkpoint"),
    (without("onetake", "cursors"), "the state is damaged (KeyError('cursors')); load another checkpoint"),
    (with_(None, "onetake", "order"), "the state is damaged (TypeError"),
    (with_("soon", "epoch"), "the state is damaged (ValueError"),
    (with_(-1, "sample_in_epoch"), "the state is damaged (epoch 2, sample -1); load another checkpoint"),
    (with_(None, "onetake", "cursors"), "the state's cursors are damaged (TypeError"),
    (without("onetake", "cursors", "video_ids"), "the state's cursors are damaged (KeyError('video_ids'))"),
    (with_([[2, 0]], "onetake", "cursors", "lanes"), "the state's cursors are damaged (IndexError"),
    (with_([[0]], "onetake", "cursors", "lanes"), "the state's cursors are damaged (ValueError"),
    (with_([["a", 0]], "onetake", "cursors", "lanes"), "the state's cursors are damaged (TypeError"),
    (with_([[0, None]], "onetake", "cursors", "lanes"), "the state's cursors are damaged (TypeError"),
]


@pytest.mark.parametrize("state, message", REFUSED, ids=range(len(REFUSED)))
def test_a_bad_state_is_refused_in_words(state, message):
    with pytest.raises(ResumeError) as caught:
        read_state(state)
    assert message in str(caught.value)
    assert isinstance(caught.value, OnetakeError)


CHANGES = [
    # saved, now, what is said
    ({"seed": 1, "lanes": [4, 2]}, {"seed": 1, "lanes": [4, 2]}, []),
    ({"seed": 1}, {"seed": 2}, ["seed was 1 and is now 2"]),
    ({"by": "video", "seed": 1}, {"by": "segment", "seed": 2}, [
        "by was 'video' and is now 'segment'", "seed was 1 and is now 2",
    ]),
    ({"seed": 1, "old": 5}, {"seed": 1}, ["old was 5 and is now None"]),
    ({"seed": 1}, {"seed": 1, "new": [1]}, ["new was None and is now [1]"]),
    ({"b": 1, "a": 1}, {"a": 1, "b": 1}, []),
]  # fmt: skip


@pytest.mark.parametrize("saved, now, said", CHANGES, ids=range(len(CHANGES)))
def test_what_changed_is_said(saved, now, said):
    assert check_order(saved, now) == said


UNITS = [
    # as they are saved -> as they are read, or what is wrong
    (None, []),
    ([[4, 0]], [(4, 0)]),
    ([[4, 0], [6, 20], [4, 32]], [(4, 0), (6, 20), (4, 32)]),
    ([[4, 1]], "units of no size"),
    ([[0, 0]], "units of no size"),
    ([[4, 0], [6, 21]], "units that are not whole"),
    ([[4, 0], [6, 0]], "units that are not whole"),
    ([[0, 0], [6, 4]], "ZeroDivisionError"),
    ([[4]], "ValueError"),
    (7, "TypeError"),
]


@pytest.mark.parametrize(("saved", "read"), UNITS, ids=str)
def test_sizes_of_units(saved, read):
    state = {"onetake": {} if saved is None else {"units": saved}}
    if isinstance(read, list):
        assert read_units(state) == read
    else:
        with pytest.raises(ResumeError, match=f"the state's units are damaged .*{read}"):
            read_units(state)
