"""Options that say which clips, alike for every command that has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from onetake.core.clips import ClipSpec

__all__ = ["clip_options", "clip_spec"]

Command = TypeVar("Command", bound=Callable[..., Any])

_STRIDE = 4

_OPTIONS = (
    click.option("--num-frames", default=16, show_default=True, help="Frames in a clip."),
    click.option("--stride", type=int, help="Frames of the video from one of a clip's to the next.  [default: 4]"),
    click.option("--hop", type=int, help="Frames from a clip's start to the next one's.  [default: back to back]"),
    click.option("--fps", help='Count clips in seconds: frames a second, such as 8 or "30000/1001"; no --stride.'),
    click.option("--hop-seconds", help="With --fps: seconds from a clip's start to the next one's."),
    click.option("--clips-per-video", type=int, help="Random clips that an epoch takes of each video.  [default: all]"),
    click.option("--align", type=click.Choice(["keyframe"]), help="Start clips at keyframes."),
    click.option("--jitter", is_flag=True, help="Shift each video's clips at random in every epoch."),
)


def clip_options(command: Command) -> Command:
    """Give a command these options; their values are arguments for ``clip_spec``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def clip_spec(values: Mapping[str, Any]) -> ClipSpec:
    """The ClipSpec that the options' values say.

    Raises:
        SpecError: one is out of range, or two do not go together.
    """
    from onetake.core.clips import ClipSpec

    given = {name: value for name, value in values.items() if value is not None}
    if not given.keys() & {"stride", "fps"}:
        given["stride"] = _STRIDE
    return ClipSpec(**given)
