"""Composer callbacks about the position: one that keeps it exact between fits, one that logs it."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from typing import Any

from composer.core import Callback, State, Time
from composer.loggers import Logger
from composer.utils import dist

from onetake.core.state import cursor_seconds, unpack_cursors
from onetake.stream.loader import VideoLoader

__all__ = ["CursorLogger", "ExactResume"]

log = logging.getLogger(__name__)


class ExactResume(Callback):
    """Tells the videos where training stands when a fit starts, and Composer how much of the epoch is left.

    What a checkpoint holds, Composer restores itself. Without this callback it gets two things wrong: a ``fit`` that
    goes on in the middle of an epoch that the same Trainer left trains on another epoch's clips, and with
    ``train_subset_num_batches=`` a resumed epoch begins its count of batches anew.
    """

    def __init__(self) -> None:
        self._whole_epoch: Time | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Place the dataset; let the epoch that goes on end where it would have."""
        loader = state.train_dataloader
        if not isinstance(loader, VideoLoader):
            return
        trained = int(state.timestamp.sample_in_epoch)
        if loader.started:
            loader.load_state_dict(loader.dataset.state_dict(trained, True))
            state.dataset_resumption["train"] = True  # else Composer runs the loader up to here a second time
        elif trained and loader.dataset.state_dict(0, False)["sample_in_epoch"] != trained:
            state.dataset_resumption.pop(
                "train", None
            )  # that was for another loader: Composer runs this one up to here
        if trained and state.dataset_resumption.get("train") and state.dataloader_len is not None:
            batch = loader.dataset.global_batch_size
            left = -(-(int(state.dataloader_len) * batch - trained) // batch)  # batches may have been of another size
            if left <= 0:
                self._skip_to_next_epoch(loader)
                warnings.filterwarnings("ignore", "No batches were trained for global rank")  # none were left
            self._whole_epoch = state.dataloader_len
            state.dataloader_len = max(left, 0)

    def _skip_to_next_epoch(self, loader: VideoLoader) -> None:
        at = loader.dataset.state_dict(0, False)  # after the last batch of all it may say the next epoch already
        loader.load_state_dict(loader.dataset.state_at(at["epoch"] + 1, 0) if at["sample_in_epoch"] else at)

    def epoch_end(self, state: State, logger: Logger) -> None:
        """Tell the videos: the loader cannot know where ``train_subset_num_batches=`` ends the epoch."""
        if isinstance(state.train_dataloader, VideoLoader):
            state.train_dataloader.dataset.end_epoch()

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """The Trainer has taken the number of batches that are left: give the whole epoch's back."""
        if self._whole_epoch is not None:
            state.dataloader_len = self._whole_epoch
            self._whole_epoch = None


class CursorLogger(Callback):
    """Logs at each checkpoint at which video, frame and time every lane goes on.

    To the loggers: the metrics ``data/epoch``, ``data/sample`` (trained samples of the epoch, over all ranks) and
    ``data/open_videos``, and the table ``data/cursors`` with a row per lane (an empty one for a lane at its end). To
    Python's logging, on rank 0: a line in words at level INFO.

    Args:
        lanes_in_words: how many lanes the line names.
    """

    def __init__(self, lanes_in_words: int = 8) -> None:
        self.lanes_in_words = lanes_in_words
        self._fit: tuple[State, Logger] | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        """Keep what ``state_dict`` needs."""
        self._fit = state, logger

    def state_dict(self) -> dict[str, Any]:
        """Nothing; but that it is asked for says that a checkpoint is being saved."""
        if self._fit is not None and isinstance(self._fit[0].train_dataloader, VideoLoader):
            self._log(*self._fit)
        return {}

    def _log(self, state: State, logger: Logger) -> None:
        dataset = state.train_dataloader.dataset
        position = dataset.state_dict(int(state.timestamp.sample_in_epoch), True)
        epoch, sample = position["epoch"], position["sample_in_epoch"]
        packed, step = position["onetake"]["cursors"], int(state.timestamp.batch)
        rows = [
            [lane, *(at or (None, None)), seconds]
            for lane, (at, seconds) in enumerate(zip(unpack_cursors(packed), cursor_seconds(packed), strict=True))
        ]
        logger.log_metrics({"data/epoch": epoch, "data/sample": sample, "data/open_videos": len(packed["video_ids"])})
        for destination in logger.destinations:
            with suppress(ImportError):  # some make tables with pandas, which Composer does not bring
                destination.log_table(["lane", "video_id", "frame", "seconds"], rows, "data/cursors", step)
        if dist.get_global_rank() == 0:
            log.info("checkpoint at epoch %d, sample %d: %s", epoch, sample, self._words(rows))

    def _words(self, rows: list[list[Any]]) -> str:
        words = [
            f"lane {lane} at its end"
            if video_id is None
            else f"lane {lane} at frame {frame} ({seconds:.2f} s) of {video_id}"
            for lane, video_id, frame, seconds in rows[: self.lanes_in_words]
        ]
        more = len(rows) - len(words)
        return ", ".join(words) + (f" and {more} lanes more" if more else "")
