"""Files that are whole or absent, and the search for the newest whole checkpoint."""

import os
import resource

import pytest
import torch

from mrcnn_plugin.checkpoint.files import (
    damage,
    find_checkpoint,
    remove_unfinished,
    save_whole,
    tag_checkpoint,
)
from mrcnn_plugin.errors import RunError


def save(folder, name, iteration):
    save_whole(folder / name, {"iteration": iteration, "x": torch.arange(50_000.0)})
    tag_checkpoint(folder, name)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints; the last one is tagged."""
    for iteration in (9, 19, 29):
        save(tmp_path, f"model_{iteration:07d}.pth", iteration)
    return tmp_path


DAMAGES = {
    "empty": (lambda content: b"", "it is empty"),
    "truncated": (lambda content: content[: len(content) // 2], "truncated or not a checkpoint"),
    "garbage": (lambda content: os.urandom(5000), "truncated or not a checkpoint"),
    "a tensor changed": (
        lambda content: content[:99_999] + b"\x01\x02\x03" + content[100_002:],
        "checksum of its record",
    ),
}


@pytest.mark.parametrize("change, message", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_skipped(change, message, folder, caplog):
    newest = folder / "model_0000029.pth"
    assert damage(newest) is None
    newest.write_bytes(change(newest.read_bytes()))
    assert message in damage(newest)
    with caplog.at_level("WARNING"):
        assert find_checkpoint(folder) == folder / "model_0000019.pth"
    assert f"Skipping the checkpoint {newest}" in caplog.text and message in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"gone.pth", b"../../other.pth", None])
def test_a_useless_last_checkpoint_is_replaced_by_a_search(content, folder):
    tag = folder / "last_checkpoint"
    tag.unlink() if content is None else tag.write_bytes(content)
    (folder.parent / "other.pth").write_bytes(b"")
    assert find_checkpoint(folder) == folder / "model_0000029.pth"


def test_an_absolute_path_in_last_checkpoint_is_followed(folder, tmp_path_factory, caplog):
    elsewhere = save(tmp_path_factory.mktemp("elsewhere"), "model_0000004.pth", 4)
    (folder / "last_checkpoint").write_text(str(elsewhere))
    assert find_checkpoint(folder) == elsewhere and caplog.text == ""
    (folder / "last_checkpoint").write_text(str(elsewhere.with_name("gone.pth")))
    assert find_checkpoint(folder) == folder / "model_0000029.pth"
    assert "elsewhere0/gone.pth'; expected" in caplog.text


def test_the_tagged_checkpoint_comes_first(folder):
    """A user goes back to an earlier checkpoint by editing the file, as with detectron2."""
    tag_checkpoint(folder, "model_0000009.pth")
    assert find_checkpoint(folder) == folder / "model_0000009.pth"


@pytest.mark.parametrize(
    "iteration, expected", [(24, "model_0000029.pth"), (39, "model_final.pth")]
)
def test_model_final_is_ordered_by_its_iteration(iteration, expected, folder):
    save(folder, "model_final.pth", iteration)
    (folder / "last_checkpoint").write_text("")
    assert find_checkpoint(folder) == folder / expected


def test_nothing_whole_is_an_error_and_nothing_at_all_is_none(folder, tmp_path_factory):
    for file in folder.glob("*.pth"):
        file.write_bytes(b"no")
    with pytest.raises(RunError, match=r"All 3 checkpoints in .* are damaged.*backup"):
        find_checkpoint(folder)
    assert find_checkpoint(tmp_path_factory.mktemp("empty")) is None


@pytest.fixture
def full_disk():
    """No file can grow beyond 100 kB, as on a disk that has no more room."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, full_disk):
    path = tmp_path / "model_0000001.pth"
    save_whole(path, {"small": torch.zeros(3)})
    before = path.read_bytes()
    for name in (path.name, "model_0000002.pth"):
        with pytest.raises(RunError, match=r"could not be written \(File too large\).*Free space"):
            save_whole(tmp_path / name, {"large": torch.zeros(100_000)})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_an_error_of_the_content_is_not_called_an_error_of_the_disk(tmp_path):
    with pytest.raises(TypeError, match="cannot pickle"):
        save_whole(tmp_path / "x.pth", {"generator": (i for i in range(3))})


def test_a_vanished_folder_is_made_again(tmp_path):
    save_whole(tmp_path / "gone/deeper/x.pth", {"x": 1})
    assert torch.load(tmp_path / "gone/deeper/x.pth") == {"x": 1}


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        save_whole(tmp_path / "file/x.pth", {"x": 1})


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "model_0000001.pth.unfinished").write_bytes(b"half")
    save(tmp_path, "model_0000000.pth", 0)
    remove_unfinished(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["last_checkpoint", "model_0000000.pth"]
