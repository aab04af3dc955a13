"""Contact sheets hold each picture as it is, in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onetake.cli.contact_sheet import SheetRow, draw_sheet
from onetake.core.errors import SpecError


def picture(height: int, width: int, colour: int) -> np.ndarray:
    """One that fades from left to right and from top to bottom, so that turned or scaled it is another."""
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([down, across, np.full_like(down, colour)], -1).astype(np.uint8)


def places(sheet: np.ndarray, wanted: np.ndarray) -> list[tuple[int, int]]:
    """(top, left) of each place where ``sheet`` holds a picture, pixel by pixel."""
    height, width = wanted.shape[:2]
    found = np.argwhere((sheet[: 1 - height or None, : 1 - width or None] == wanted[0, 0]).all(-1))
    for y, x in np.random.default_rng(0).integers((height, width), size=(200, 2)).tolist():
        found = found[(sheet[found[:, 0] + y, found[:, 1] + x] == wanted[y, x]).all(-1)]
    return [
        (top, left)
        for top, left in found.tolist()
        if np.array_equal(sheet[top : top + height, left : left + width], wanted)
    ]


def drawn(rows: list[SheetRow], out: Path) -> np.ndarray:
    draw_sheet("heading", rows, out)
    return np.asarray(Image.open(out))


def test_rows_lie_below_one_another_and_frames_side_by_side(tmp_path):
    wide = [picture(40, 100, colour) for colour in (10, 20, 30)]
    tall = [picture(90, 30, colour) for colour in (40, 50)]
    rows = [SheetRow("wide", wide, ["a", "b", "c"]), SheetRow("tall", tall, ["a much longer caption", "b"])]
    sheet = drawn(rows, tmp_path / "sheet.png")
    found = [[place for frame in frames for place in places(sheet, frame)] for frames in (wide, tall)]
    assert [len(row) for row in found] == [3, 2]
    for row in found:
        assert len({top for top, _ in row}) == 1
        assert row == sorted(row)
    (_, first), (_, second) = found[1]
    assert second - first > 100  # no caption is written over
    assert found[1][0][0] > found[0][0][0] + 40


def test_words_are_drawn(tmp_path):
    frames = [picture(40, 100, 10)]
    bare = drawn([SheetRow("", frames, [""])], tmp_path / "bare.png")
    for row in (SheetRow("title", frames, [""]), SheetRow("", frames, ["caption"])):
        assert (drawn([row], tmp_path / "words.png") != bare).any()
    noted = drawn([SheetRow("", (), note="does not decode")], tmp_path / "note.png")
    assert ((noted[..., 0].astype(int) - noted[..., 1]) > 100).any()  # red


def test_an_endless_name_does_not_make_an_endless_sheet(tmp_path):
    sheet = drawn([SheetRow("x" * 10_000, [picture(40, 100, 10)])], tmp_path / "sheet.png")
    assert sheet.shape[1] < 1500


def test_no_row_at_all(tmp_path):
    assert drawn([], tmp_path / "sheet.png").shape[0] > 20


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(SpecError, match="the sheet cannot be written there"):
        draw_sheet("heading", [], tmp_path)
