"""Files and indexes that were meddled with: only our own errors come out, nothing crashes, hangs or eats the memory.

Cases run one after another in a child process under bounds of memory and time. A case that brings the child down is
reported as such, and a new child goes on behind it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onetake.core.errors import OnetakeError
from onetake.core.index import PacketTable
from onetake.decode.build import index_videos
from onetake.decode.decoder import ClipDecoder, new_counters
from onetake.decode.scale import converter
from onetake.decode.segment import run_table
from onetake.decode.source import open_source
from onetake.decode.store import read_index, read_keyframes, read_table
from onetake.decode.validate import safe_path
from tests.zoo import write_zoo

MEMORY_BYTES = 1 << 30  # that a child may take beyond what its imports took
CASE_SECONDS = 15
CLIP = 12  # frames read at each segment's start
Bytes = Callable[[bytearray, np.random.Generator], bytes]


# Bytes


def _flip(data: bytearray, places: Any) -> bytes:
    for place in places:
        data[int(place) // 8] ^= 1 << int(place) % 8
    return bytes(data)


def _over(data: bytearray, start: int, patch: bytes) -> bytes:
    data[start : start + len(patch)] = patch[: max(len(data) - start, 0)]
    return bytes(data)


BYTES: dict[str, Bytes] = {
    "flip": lambda data, rng: _flip(data, rng.integers(0, 8 * len(data), 4)),
    "flip_head": lambda data, rng: _flip(data, rng.integers(0, 8 * min(len(data), 500), 3)),
    "flip_tail": lambda data, rng: _flip(data, 8 * len(data) - 1 - rng.integers(0, 8 * min(len(data), 1500), 3)),
    "noise": lambda data, rng: _over(data, int(rng.integers(len(data))), rng.bytes(100)),
    "noise_head": lambda data, rng: _over(data, int(rng.integers(min(len(data), 600))), rng.bytes(16)),
    "noise_tail": lambda data, rng: _over(data, len(data) - int(rng.integers(16, min(len(data), 1500))), rng.bytes(16)),
    "zeros": lambda data, rng: _over(data, int(rng.integers(len(data))), bytes(200)),
    "ones": lambda data, rng: _over(data, int(rng.integers(min(len(data), 600))), b"\xff" * 8),
    "cut": lambda data, rng: bytes(data[: int(rng.integers(len(data)))]),
    "splice": lambda data, rng: bytes(data[: len(data) // 2] + data[len(data) // 2 + 37 :]),
}
VIDEOS = (
    "bframes.mp4", "fragments.mp4", "replay.mp4", "open.mkv", "hevc_open.mp4", "vp9_hidden.webm", "av1.mp4",
    "mpeg4.avi", "open.ts", "mpeg2.mpg", "bframes.flv", "prores.mov",
)  # fmt: skip
INDEX_BYTES = ("flip", "flip_head", "flip_tail", "noise", "zeros", "cut")
INDEX_FILES = ("index.json", "videos.parquet", "segments.parquet", "packets.bin")


# What an index says. The videos are, by number: 0 av1.mp4, 1 bframes.mp4, 2 bframes.ts, 3 open.mkv.


def _rewrite(path: Path, change: Callable[[list[dict[str, Any]]], Any], schema: pa.Schema | None = None) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema or table.schema), path)


def video(number: int = 1, **values: Any) -> Callable[[Path], None]:
    return lambda index: _rewrite(index / "videos.parquet", lambda rows: rows[number].update(values))


def segment(number: int = 1, **values: Any) -> Callable[[Path], None]:
    return lambda index: _rewrite(index / "segments.parquet", lambda rows: rows[number].update(values))


def header(**values: Any) -> Callable[[Path], None]:
    def edit(index: Path) -> None:
        path = index / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def both(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda index: [edit(index) for edit in edits] and None


def packets(change: Callable[[PacketTable], PacketTable | bytes], video: int = 1) -> Callable[[Path], None]:
    """Rewrite the packet table of a video's first segment."""

    def edit(index: Path) -> None:
        found = read_index(index)
        tables: list[Any] = [read_table(index, found, number) for number in range(found.num_segments)]
        number = int(np.flatnonzero(found.video == video)[0])
        tables[number] = change(tables[number])
        parts = [table if isinstance(table, bytes) else table.to_bytes() for table in tables]
        stops = np.cumsum([len(part) for part in parts]).tolist()

        def place(rows: list[dict[str, Any]]) -> None:
            for row, part, stop in zip(rows, parts, stops, strict=True):
                row.update(table_offset=stop - len(part), table_length=len(part))

        (index / "packets.bin").write_bytes(b"".join(parts))
        _rewrite(index / "segments.parquet", place)
        header(packets_bytes=stops[-1])(index)

    return edit


def _set(name: str, value: int, rows: slice = slice(3, 4)) -> Callable[[PacketTable], PacketTable]:
    def change(table: PacketTable) -> PacketTable:
        column = getattr(table, name).copy()
        column[rows] = value
        return replace(table, **{name: column})

    return change


def _column_of_strings(index: Path) -> None:
    path = index / "videos.parquet"
    schema = pq.read_schema(path)
    schema = schema.set(schema.get_field_index("width"), pa.field("width", pa.string()))
    _rewrite(path, lambda rows: [row.update(width="wide") for row in rows], schema)


def _column_gone(index: Path) -> None:
    path = index / "segments.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["first_pts"]), path)


LARGE = 2**62
EVERY = slice(None)
EDITS: dict[str, Callable[[Path], None]] = {
    "file_above": video(file="../bframes.mp4"),
    "file_absolute": video(file="/etc/hostname"),
    "file_winding": video(file="sub/../../x.mp4"),
    "file_missing": video(file="missing.mp4"),
    "file_empty": video(file=""),
    "file_nul": video(file="bframes.mp4\0"),
    "file_folder": video(file="folder"),
    "file_other": video(file="av1.mp4"),
    "file_other_container": video(2, file="open.mkv"),
    "decoder_unknown": video(decoder="nonesuch"),
    "decoder_empty": video(decoder=""),
    "decoder_encoder": video(decoder="libx264"),
    "decoder_audio": video(decoder="aac"),
    "decoder_other": video(decoder="hevc", codec="hevc"),
    "decoder_raw": video(decoder="rawvideo", codec="rawvideo", width=20000, height=20000),
    "codec_unknown": video(codec="nonesuch"),
    "options_unknown": video(codec_options="nonesuch=1"),
    "options_no_value": video(codec_options="strict"),
    "options_no_name": video(codec_options="=,=,"),
    "options_bad_value": video(codec_options="strict=wild"),
    "options_threads": video(codec_options="threads=100000"),
    "options_pixels": video(codec_options="max_pixels=2000000000"),
    "options_skip": video(codec_options="skip_frame=all"),
    "extradata_none": video(extradata=b""),
    "extradata_noise": video(extradata=np.random.default_rng(0).bytes(1000)),
    "extradata_long": video(extradata=bytes(1 << 22)),
    "size_large": video(width=2**40, height=2**40),
    "size_above": video(width=2**31 - 1, height=2**31 - 1),
    "size_negative": video(width=-5),
    "size_zero": video(width=0, height=0),
    "rotation": video(rotation=45),
    "rotation_large": video(rotation=LARGE),
    "time_base_zero": video(time_base_den=0),
    "time_base_negative": video(time_base_num=-LARGE),
    "stream_none": video(2, stream_index=99),
    "stream_negative": video(2, stream_index=-1),
    "kind_container": video(kind="container"),
    "kind_packets": video(2, kind="packets"),
    "kind_unknown": video(kind="nonesuch"),
    "pix_fmt": video(pix_fmt="nonesuch"),
    "matrix": video(color_matrix="nonesuch", color_range="nonesuch", transfer="nonesuch"),
    "frames_none": video(num_frames=0),
    "frames_negative": video(num_frames=-1),
    "frames_many": both(video(0, num_frames=LARGE), segment(0, num_frames=LARGE)),
    "id_twice": video(0, video_id="bframes.mp4"),
    "null": video(file=None),
    "strings": _column_of_strings,
    "column_gone": _column_gone,
    "segment_first": segment(first_frame=LARGE),
    "segment_negative": segment(num_frames=-1),
    "segment_video": segment(video=LARGE),
    "segment_bytes": segment(byte_offset=LARGE, byte_length=LARGE),
    "segment_packets": segment(num_packets=LARGE),
    "segment_few_packets": segment(num_packets=1),
    "table_far": segment(table_offset=LARGE),
    "table_long": both(segment(table_length=2**44), header(packets_bytes=LARGE)),
    "table_many": both(segment(table_length=2**44, num_packets=2**34), header(packets_bytes=LARGE)),
    "keys_wild": segment(key_frames=[LARGE], key_pts=[-LARGE]),
    "keys_none": segment(key_frames=[], key_pts=[]),
    "keys_uneven": segment(key_frames=[0, 0], key_pts=[0]),
    "header_list": lambda index: (index / "index.json").write_text("[]") and None,
    "header_deep": lambda index: (index / "index.json").write_text("[" * 100_000) and None,
    "header_bytes": header(packets_bytes="many"),
    "header_generation": header(generation=None),
    "bomb": packets(lambda table: zlib.compress(bytes(1 << 28))),
    "offset_far": packets(_set("offset", LARGE)),
    "offset_negative": packets(_set("offset", -5)),
    "offset_zero": packets(_set("offset", 0, EVERY)),
    "size_of_packet_negative": packets(_set("size", -1)),
    "size_of_packet_zero": packets(_set("size", 0)),
    "size_of_packet_large": packets(_set("size", 2**40)),
    "size_of_packet_31": packets(_set("size", 2**31 - 1)),
    "size_of_packet_32": packets(_set("size", 2**32)),
    "frame_large": packets(_set("frame", 2**50)),
    "frame_negative": packets(_set("frame", -7)),
    "frame_twice": packets(_set("frame", 2)),
    "frames_hidden": packets(_set("frame", -1, EVERY)),
    "pts_large": packets(_set("pts", 2**63 - 1)),
    "pts_equal": packets(_set("pts", 0, EVERY)),
    "no_keys": packets(_set("flags", 0, EVERY)),
    "all_flags": packets(_set("flags", 255, EVERY)),
    "late_keys": packets(_set("flags", 5, EVERY)),
    "container_pts": packets(_set("pts", -LARGE, EVERY), 2),
    "container_no_keys": packets(_set("flags", 0, EVERY), 2),
    "container_sizes": packets(_set("size", 7, EVERY), 2),
}
MISSING = {"edit-file_missing"}  # FileNotFoundError, on which a missing file is fetched again
CASES = [
    *(f"video-{name}-{how}" for name in VIDEOS for how in BYTES),
    *(f"index-{name}-{how}" for name in INDEX_FILES for how in INDEX_BYTES),
    *(f"edit-{name}" for name in EDITS),
]


def _mutated(path: Path, how: str, case: str) -> None:
    data = bytearray(path.read_bytes())
    path.write_bytes(BYTES[how](data, np.random.default_rng(zlib.crc32(case.encode()))))


# The child


def _use(index_folder: Path, videos: Path) -> list[str]:
    """Read what an index says, and the start of each segment; our own errors, as text."""
    index = read_index(index_folder)
    errors = []
    try:
        read_keyframes(index_folder, index)
    except OnetakeError as error:
        errors.append(repr(error))
    for number in range(min(index.num_segments, 12)):
        try:
            _use_segment(index_folder, videos, index, number)
        except OnetakeError as error:
            errors.append(f"segment {number}: {error!r}")
    return errors


def _use_segment(index_folder: Path, videos: Path, index: Any, number: int) -> None:
    about = index.videos[index.video[number]]
    first = int(index.first_frame[number])
    frames = list(range(first, first + min(int(index.num_frames[number]), CLIP)))
    if not frames:
        return
    table = run_table(index, number, frames[-1] + 1, lambda s: read_table(index_folder, index, s))
    source = open_source(about, table, videos / safe_path(about.file))
    try:
        decoder = ClipDecoder(about, source, converter((32, 48), about.rotation), new_counters(), frames[::2])
        decoder.read(frames[::2])
        decoder.seconds(frames[::2])
    finally:
        source.close()


def _run(case: str, folder: Path) -> list[str]:
    if case.startswith("video"):
        index_videos(folder, folder / "index", segment_seconds=1, workers=1)
        return _use(folder / "index", folder)
    return _use(folder, folder.parent / "videos")


def child(root: str) -> None:
    """Run the cases named on standard input; say of each how it went, in a line of JSON."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
    for case in sys.stdin.read().split("\n"):
        signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)  # no handler: it ends the process, wherever that is
        try:
            outcome = _run(case, Path(root) / case)
        except OnetakeError as error:
            outcome = [repr(error)]
        except BaseException as error:
            what = "missing" if isinstance(error, FileNotFoundError) else "FOREIGN"
            outcome = [f"{what}: {error!r}\n{''.join(traceback.format_exc(limit=-6))}"]
        os.write(3, (json.dumps([case, outcome]) + "\n").encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "videos" / "folder").mkdir(parents=True)
    write_zoo(folder / "zoo", VIDEOS)
    write_zoo(folder / "videos", ["av1.mp4", "bframes.mp4", "bframes.ts", "open.mkv"])
    index_videos(folder / "videos", folder / "good", segment_seconds=1, workers=1)
    for case in CASES:
        kind, _, rest = case.partition("-")
        if kind == "video":
            name, _, how = rest.rpartition("-")
            (folder / case).mkdir()
            shutil.copy(folder / "zoo" / name, folder / case / name)
            _mutated(folder / case / name, how, case)
            continue
        shutil.copytree(folder / "good", folder / case)
        if kind == "index":
            name, _, how = rest.rpartition("-")
            _mutated(folder / case / name, how, case)
        else:
            EDITS[rest](folder / case)
    return folder


def _outcomes(root: Path, cases: list[str]) -> dict[str, list[str]]:
    outcomes: dict[str, list[str]] = {}
    code = f"from tests.decode.test_fuzz import child; child({str(root)!r})"
    while len(outcomes) < len(cases):
        todo = cases[len(outcomes) :]
        read, write = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3>&{write}', "-", sys.executable, "-X", "faulthandler", "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[write], env=environment,
        ) as process:  # fmt: skip
            os.close(write)
            process.stdin.write("\n".join(todo).encode())
            process.stdin.close()
            with os.fdopen(read) as lines:
                outcomes.update(json.loads(line) for line in lines)
            stderr = process.stderr.read().decode(errors="replace")
        if len(outcomes) < len(cases):
            died = cases[len(outcomes)]
            assert process.returncode, stderr
            outcomes[died] = [f"FOREIGN: the process ended with status {process.returncode}\n{stderr[-3000:]}"]
    return outcomes


@pytest.fixture(scope="module")
def outcomes(root, request) -> dict[str, list[str]]:
    asked = {item.callspec.params["case"] for item in request.session.items if "outcomes" in item.fixturenames}
    return _outcomes(root, [case for case in CASES if case in asked])


@pytest.mark.parametrize("case", CASES)
def test_only_our_own_errors_come_out(outcomes, case):
    foreign = [text for text in outcomes[case] if text.startswith("FOREIGN")]
    assert not foreign, foreign[0]
    assert any(text.startswith("missing") for text in outcomes[case]) == (case in MISSING), outcomes[case]


def test_the_index_is_right_before_it_is_meddled_with(root):
    assert _use(root / "good", root / "videos") == []
