"""An index read where it stands, also while it is rebuilt: of one generation, or an error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from onetake.core.errors import IndexFileError, SourceError
from onetake.core.index import PacketTable
from onetake.decode.build import index_videos
from onetake.decode.index_source import IndexSource, index_folder
from onetake.decode.store import INDEX_FILES, PACKETS_BIN, read_index, read_table
from onetake.decode.synthetic import write_numbered_video
from onetake.storage.base import StorageError
from onetake.storage.local import LocalStorage

REBUILT = "was rebuilt since this run opened it: start again"


class CountingStorage(LocalStorage):
    """Counts what is read of packets.bin."""

    reads = 0

    def read(self, file, *arguments):
        self.reads += file == PACKETS_BIN
        return super().read(file, *arguments)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Two indexes of the same videos."""
    videos = tmp_path_factory.mktemp("videos")
    write_numbered_video(videos / "a.mp4", 100, gop=25)
    write_numbered_video(videos / "b.mp4", 60, gop=25)
    for name, seconds in (("one", 1), ("two", 2)):
        index_videos(videos, videos / name, segment_seconds=seconds, workers=1)
    return videos / "one", videos / "two"


@pytest.fixture
def mine(both, tmp_path) -> Path:
    return Path(shutil.copytree(both[0], tmp_path / "index"))


def rebuild(folder: Path, both) -> None:
    for name in INDEX_FILES:
        shutil.copyfile(both[1] / name, folder / name)


def same(one: PacketTable, other: PacketTable) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in PacketTable.__slots__)


@pytest.mark.parametrize("order", [range(7), reversed(range(7)), [3, 3, 4, 4, 6, 0, 1, 2]], ids=["up", "down", "mixed"])
def test_tables_are_those_of_the_folder_whatever_the_order(mine, order):
    index, source = read_index(mine), IndexSource(LocalStorage(mine))
    for segment in order:
        assert same(source.read_table(index, segment), read_table(mine, index, segment)), segment


def test_a_table_comes_with_that_of_the_next_segment_of_its_video(mine):
    storage = CountingStorage(mine)
    index, source = read_index(mine), IndexSource(storage)
    for segment, reads in ((0, 1), (1, 1), (1, 2), (2, 2), (3, 3), (4, 4), (5, 4)):  # 3 is its video's last
        source.read_table(index, segment)
        assert storage.reads == reads, segment


def test_an_index_that_is_rebuilt_between_two_tables(mine, both):
    index, source = read_index(mine), IndexSource(LocalStorage(mine))
    source.read_table(index, 0)
    rebuild(mine, both)
    with pytest.raises(IndexFileError, match=REBUILT):
        source.read_table(index, 4)


def test_an_index_that_is_gone_between_two_tables(mine):
    index, source = read_index(mine), IndexSource(LocalStorage(mine))
    (mine / "index.json").unlink()  # as at the beginning of a rebuild
    with pytest.raises(IndexFileError, match=REBUILT):
        source.read_table(index, 0)


def test_files_that_were_only_touched_are_the_same_index(mine):
    index, source = read_index(mine), IndexSource(LocalStorage(mine))
    first = source.read_table(index, 0)
    os.utime(mine / PACKETS_BIN, ns=(1, 1))
    assert same(source.read_table(index, 0), first)


def test_an_index_that_is_rebuilt_while_it_is_copied_leaves_no_mixture(mine, both, tmp_path):
    class Rebuilding(LocalStorage):
        def copy(self, file, *arguments):
            entry = super().copy(file, *arguments)
            rebuild(mine, both)
            return entry

    (tmp_path / "copy").mkdir()
    with pytest.raises(IndexFileError, match=REBUILT):
        IndexSource(Rebuilding(mine)).copy_tables(tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())
    IndexSource(LocalStorage(mine)).copy_tables(tmp_path / "copy")
    assert read_index(tmp_path / "copy").generation == read_index(both[1]).generation
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted(
        path.name for path in mine.iterdir() if path.name != PACKETS_BIN
    )


@pytest.mark.parametrize("data, message", [(None, "cannot be read \\(No such file"), (b"short", "damaged")])
def test_packet_tables_that_are_not_there(mine, data, message):
    index, source = read_index(mine), IndexSource(LocalStorage(mine))
    (mine / PACKETS_BIN).unlink()
    if data is not None:
        (mine / PACKETS_BIN).write_bytes(data)
    with pytest.raises(IndexFileError, match=f"packets.bin.*{message}.*run `onetake index` again"):
        source.read_table(index, 2)


def test_a_place_that_cannot_be_read(mine):
    class Unreadable(LocalStorage):
        def read(self, *_):
            raise StorageError(5, "the line is dead", "somewhere")

    with pytest.raises(SourceError, match=f"the index in {mine} cannot be read \\(the line is dead\\)"):
        IndexSource(Unreadable(mine))


def test_the_folder_of_an_index(mine, s3, tmp_path):
    with index_folder(str(mine)) as folder:
        assert folder == mine
    with index_folder(s3(mine)) as folder:
        assert read_index(folder).generation == read_index(mine).generation
    assert not folder.exists()
    with pytest.raises(IndexFileError, match="no index in s3://"):
        with index_folder(s3()):
            pass
