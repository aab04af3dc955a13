"""Encoders leave the process as urgent as it was."""

from __future__ import annotations

import os
import threading

import pytest

from onetake.decode.priority import usual_priority
from onetake.decode.synthetic import write_numbered_video


def policies() -> set[int]:
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_writing_a_video_makes_no_real_time_process(tmp_path, codec):
    write_numbered_video(tmp_path / "a.mp4", 4, codec=codec)
    assert policies() == {os.SCHED_OTHER}


def test_every_thread_is_set_back():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with usual_priority():  # SCHED_BATCH, which every user may set
            os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        assert {os.sched_getscheduler(thread.native_id), os.sched_getscheduler(0)} == {os.SCHED_OTHER}
    finally:
        ended.set()
        thread.join()
