"""Contact sheets: a row of frames for each clip, with what they are written on, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from onetake.cli.console import printable
from onetake.core.errors import SpecError

__all__ = ["SheetRow", "draw_sheet"]

_MARGIN, _GAP, _ROW_GAP = 16, 6, 14  # pixels
_HEAD, _TITLE, _CAPTION = 18, 14, 12  # font sizes
_PAPER, _INK, _FAINT, _RED = "white", "black", "#555555", "#b00020"
_WIDEST_TITLE = 100  # characters


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One clip.

    Attributes:
        title: written above its frames.
        frames: uint8 RGB pictures [H, W, 3].
        captions: written below each of them; none, or as many as frames.
        note: written in their place where there are none, such as what is wrong.
    """

    title: str
    frames: Sequence[NDArray[np.uint8]]
    captions: Sequence[str] = ()
    note: str = ""


def draw_sheet(heading: str, rows: Sequence[SheetRow], out: Path) -> None:
    """Draw clips below one another. Pictures are drawn pixel by pixel, whatever their sizes are.

    Raises:
        SpecError: ``out`` can't be written.
    """
    fonts = {size: ImageFont.load_default(size) for size in (_HEAD, _TITLE, _CAPTION)}
    layouts = [_Layout(row, fonts) for row in rows]
    width = 2 * _MARGIN + max(int(fonts[_HEAD].getlength(heading)), *(layout.width for layout in layouts), 1)
    height = 2 * _MARGIN + _line(_HEAD) + sum(_ROW_GAP + layout.height for layout in layouts)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), heading, _INK, fonts[_HEAD])
    top = _MARGIN + _line(_HEAD)
    for row, layout in zip(rows, layouts, strict=True):
        top += _ROW_GAP
        draw.text((_MARGIN, top), layout.title, _INK, fonts[_TITLE])
        if row.note:
            draw.text((_MARGIN, top + _line(_TITLE)), layout.note, _RED, fonts[_CAPTION])
        left = _MARGIN
        for number, (frame, column) in enumerate(zip(row.frames, layout.columns, strict=True)):
            sheet.paste(Image.fromarray(frame), (left, top + _line(_TITLE)))
            if row.captions:
                place = (left, top + _line(_TITLE) + layout.picture_height + 2)
                draw.text(place, row.captions[number], _FAINT, fonts[_CAPTION])
            left += column + _GAP
        top += layout.height
    try:
        sheet.save(out, "PNG")
    except OSError as error:
        raise SpecError(f"{out}: the sheet cannot be written there ({error.strerror or error})") from None


class _Layout:
    """How much room a row takes."""

    def __init__(self, row: SheetRow, fonts: dict[int, ImageFont.FreeTypeFont]) -> None:
        title, captions = printable(row.title), row.captions or [""] * len(row.frames)
        self.title = title if len(title) <= _WIDEST_TITLE else f"...{title[3 - _WIDEST_TITLE :]}"
        self.note = printable(row.note)
        self.columns = [
            max(frame.shape[1], int(fonts[_CAPTION].getlength(caption)))
            for frame, caption in zip(row.frames, captions, strict=True)
        ]
        self.picture_height = max((frame.shape[0] for frame in row.frames), default=0)
        below = _line(_CAPTION) if row.captions or row.note else 0
        self.height = _line(_TITLE) + self.picture_height + below
        self.width = max(
            sum(self.columns) + _GAP * max(len(self.columns) - 1, 0),
            int(fonts[_TITLE].getlength(self.title)),
            int(fonts[_CAPTION].getlength(self.note)),
        )


def _line(size: int) -> int:
    """Height of a line of text."""
    return size + 6
