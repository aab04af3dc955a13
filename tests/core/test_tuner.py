"""The tuner as a table: what is seen and set, and what is set and said then."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onetake.core.tuner import (
    BOTTLENECKS,
    CALM_WINDOWS,
    FUTILE_RAISES,
    STEADY_WINDOWS,
    Bounds,
    History,
    Observation,
    Settings,
    tune,
)

BOUNDS = Bounds(max_predownload=512, max_prefetch_factor=16, min_predownload=8)


def seen(stall, download=0.0, decode=0.0, transform=0.0, workers=4, seconds=100.0):
    """A window of 100 s; ``download``, ``decode`` and ``transform`` are summed over the workers."""
    return Observation(seconds, stall, download, decode, transform, workers)


TABLE = [
    # (predownload, prefetch_factor), observation -> (predownload, prefetch_factor), bottleneck, words of the reason
    ((64, 2), seen(0), (64, 2), "none", None),
    ((64, 2), seen(5, download=300), (64, 2), "none", None),
    ((64, 2), seen(5.1, download=300), (128, 2), "download", "waited 5% .* downloads: predownload 64 -> 128$"),
    ((0, 2), seen(40, 300, 50), (1, 2), "download", "predownload 0 -> 1$"),
    ((300, 2), seen(40, 300, 50), (512, 2), "download", "predownload 300 -> 512$"),
    ((512, 2), seen(40, 300, 50), (512, 2), "download", "predownload above 512 does not help or .* raise cache_limit="),
    ((900, 2), seen(40, 300, 50), (900, 2), "download", "predownload above 900 does not help"),
    ((64, None), seen(60, 50, 10, workers=0), (128, None), "download", "predownload 64 -> 128$"),
    ((64, 2), seen(40, 300, 1300, workers=16), (64, 3), "uneven", "prefetch_factor 2 -> 3$"),  # 19% of the work
    ((64, 2), seen(40, 19, 100), (64, 3), "uneven", "prefetch_factor 2 -> 3$"),  # less than half of the stall
    ((64, 2), seen(20, decode=339), (64, 3), "uneven", "waited 20% .* longer than others: prefetch_factor 2 -> 3$"),
    ((64, 3), seen(20, decode=200), (64, 5), "uneven", "prefetch_factor 3 -> 5$"),
    ((64, 12), seen(20, decode=200), (64, 16), "uneven", "prefetch_factor 12 -> 16$"),
    ((64, 16), seen(20, decode=200), (64, 16), "uneven", "prefetch_factor=16 can't be raised within the memory"),
    ((64, 2), seen(20, decode=340), (64, 2), "decode", None),
    ((64, None), seen(50, decode=50, workers=0), (64, None), "decode", None),
]


@pytest.mark.parametrize("settings, observation, after, bottleneck, words", TABLE, ids=range(len(TABLE)))
def test_the_law(settings, observation, after, bottleneck, words):
    decision = tune(Settings(*settings), observation, BOUNDS)
    assert decision.settings == Settings(*after)
    assert decision.bottleneck == bottleneck
    if words is None:
        assert decision.reason is None
    else:
        assert re.search(words, decision.reason), decision.reason


def run(settings, observations, bounds=BOUNDS):
    """(settings after the last window, [(window, reason)])."""
    history, reasons = None, []
    for window, observation in enumerate(observations):
        decision = tune(settings, observation, bounds, history)
        settings, history = decision.settings, decision.history
        if decision.reason:
            reasons.append((window, decision.reason))
    return settings, reasons


ADVICE = [
    # 4 workers decode 380 s of 400, training could go on in 60 s of the 100: 380 / 60
    (seen(40, decode=380), "4 workers were busy with decoding all the time.*about num_workers=7,"),
    (seen(6, decode=376), "about num_workers=5,"),
    (seen(40, decode=100, transform=270), "busy with transforms all the time.*about num_workers=7,"),
    (seen(100, decode=400), "far more workers"),
    (seen(40, decode=40, workers=0), "for decoding in the training process itself: give num_workers=$"),
]


@pytest.mark.parametrize("observation, words", ADVICE, ids=range(len(ADVICE)))
def test_steadily_decode_bound_is_said_once_with_the_workers_that_it_takes(observation, words):
    start = Settings(64, 2 if observation.num_workers else None)
    settings, reasons = run(start, [observation] * 50)
    assert settings == start
    ((window, reason),) = reasons
    assert window == STEADY_WINDOWS - 1
    assert re.search(words, reason), reason


def test_what_cannot_be_raised_is_said_once():
    _, reasons = run(Settings(64, 2), [seen(40, 300, 50)] * 10)
    assert [window for window, _ in reasons] == [0, 1, 2, 3]  # 128, 256, 512, and that there is no more


def test_predownload_is_not_raised_for_ever_where_that_does_not_help():
    bounds = replace(BOUNDS, max_predownload=10**9)
    settings, reasons = run(Settings(64, 2), [seen(40, 300, 50)] * 30, bounds)
    assert settings == Settings(64 * 2**FUTILE_RAISES, 2)
    assert "above 2048 does not help" in reasons[-1][1]
    falling = [seen(90 * 0.8**n, 300, 50) for n in range(10)]
    assert run(Settings(64, 2), falling, bounds)[0] == Settings(64 * 2**10, 2)


def test_memory_is_given_back_when_nothing_stalls_for_long():
    settings, reasons = run(Settings(64, 5), [seen(0.5)] * (2 * CALM_WINDOWS))
    assert [window for window, _ in reasons] == [CALM_WINDOWS - 1, 2 * CALM_WINDOWS - 1]
    assert "predownload 64 -> 32, prefetch_factor 5 -> 4" in reasons[0][1]
    assert settings == Settings(16, 3)
    settings, _ = run(Settings(64, 5), [seen(0)] * 100 * CALM_WINDOWS)
    assert settings == Settings(8, 1)
    settings, _ = run(Settings(64, 5), [seen(0)] * 100 * CALM_WINDOWS, replace(BOUNDS, downloads=False))
    assert settings == Settings(64, 1)
    settings, _ = run(Settings(4, None), [seen(0, workers=0)] * 100 * CALM_WINDOWS)
    assert settings == Settings(4, None)


def test_a_stall_in_between_starts_the_wait_anew():
    calm, stall = [seen(0)] * (CALM_WINDOWS - 1), [seen(3)]
    assert run(Settings(64, 5), [*calm, *stall, *calm])[1] == []


def test_what_stalled_when_it_was_lowered_is_not_lowered_again():
    calm, stalled = [seen(0)] * CALM_WINDOWS, [seen(20, decode=100)]
    settings, reasons = run(Settings(64, 5), calm + stalled + 10 * calm)
    assert settings == Settings(32, 5)  # 64, 5 -> 32, 4 -> stall -> 32, 6 -> 32, 5
    assert len(reasons) == 3


@given(
    st.builds(Settings, st.integers(1, 10_000), st.none() | st.integers(1, 100)),
    st.lists(st.tuples(*[st.floats(0, 1000)] * 5, st.integers(0, 16)), max_size=60),
    st.builds(Bounds, st.integers(0, 5000), st.integers(0, 50), st.integers(1, 50), st.integers(1, 4), st.booleans()),
)
def test_settings_stay_within_bounds_or_where_they_were(settings, windows, bounds):
    highest = (
        max(settings.predownload, bounds.max_predownload),
        max(settings.prefetch_factor or 0, bounds.max_prefetch_factor),
    )
    lowest = (
        min(settings.predownload, bounds.min_predownload),
        min(settings.prefetch_factor or 0, bounds.min_prefetch_factor),
    )
    history: History | None = None
    for row in windows:
        if settings.prefetch_factor is None:
            row = (*row[:5], 0)
        decision = tune(settings, Observation(*row), bounds, history)
        settings, history = decision.settings, decision.history
        assert lowest[0] <= settings.predownload <= highest[0]
        if settings.prefetch_factor is not None:
            assert lowest[1] <= settings.prefetch_factor <= highest[1]
        assert decision.bottleneck in BOTTLENECKS
