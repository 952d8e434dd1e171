"""`ReportingMapper`: errors of a loader name the file, in this process and from a worker."""

import logging
import os
import pickle

import numpy as np
import pytest
from coco_files import annotation, save_image
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, MapDataset
from detectron2.data.common import ToIterableDataset
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader, SequentialSampler

from mrcnn_plugin.data.reading import ImageError, ReportingMapper
from mrcnn_plugin.errors import RunError


def record(path, image_id=7):
    one = {**annotation(1, image_id), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    name = str(path)
    return {
        "file_name": name,
        "image_id": image_id,
        "width": 20,
        "height": 10,
        "annotations": [one],
    }


@pytest.fixture
def mapper():
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    return ReportingMapper(DatasetMapper(cfg, is_train=True))


def test_a_good_image_is_mapped(tmp_path, mapper):
    save_image(tmp_path / "a.png")
    mapped = mapper(record(tmp_path / "a.png"))
    assert mapped["image"].shape[0] == 3 and len(mapped["instances"]) == 1


def truncate(path):
    save_image(path, 20, 10)
    path.write_bytes(path.read_bytes()[:300])


# Bad files, and the cause that the message names.
BAD = {
    "FIFO": (os.mkfifo, "is a FIFO, expected a regular file"),
    "missing": (lambda path: None, "the file does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (truncate, "OSError: image file is truncated"),
    "16 bits": (
        lambda path: Image.fromarray(np.full((10, 20), 3000, np.uint16)).save(path),
        "mode I;16",
    ),
    "another size": (lambda path: save_image(path, 10, 10), "raised SizeMismatchError: Mismatched"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named(tmp_path, mapper, name):
    make, cause = BAD[name]
    make(tmp_path / "a.png")
    with pytest.raises(ImageError) as raised:
        mapper(record(tmp_path / "a.png"))
    message = str(raised.value)
    assert isinstance(raised.value, RunError) and "\n" not in message
    assert message.startswith(f"{tmp_path / 'a.png'} (image 7): ") and cause in message
    assert "mrcnn dataset check" in message


def test_faults_of_the_annotations_are_named_too(tmp_path, mapper):
    save_image(tmp_path / "a.png")
    broken = record(tmp_path / "a.png")
    broken["annotations"][0]["segmentation"] = 5
    with pytest.raises(ImageError, match=r"a\.png \(image 7\): .* raised ValueError: "):
        mapper(broken)


def test_a_url_is_left_to_the_mapper():
    def mapper(dataset_dict):
        raise KeyError("no handler")

    with pytest.raises(ImageError, match=r"s3://a/b\.png \(image 1\): .*KeyError: 'no handler'"):
        ReportingMapper(mapper)({"file_name": "s3://a/b.png", "image_id": 1})


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_error_of_a_worker_is_one_sentence(tmp_path, mapper, start):
    dataset = MapDataset([record(tmp_path / "gone.png")], mapper)
    loader = DataLoader(
        dataset, num_workers=1, collate_fn=list, multiprocessing_context=start, timeout=60
    )
    with pytest.raises(ImageError) as raised:
        next(iter(loader))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'gone.png'} (image 7): the file does not exist. ")
    assert "\n" not in message and "Traceback" not in message
    assert str(pickle.loads(pickle.dumps(raised.value))) == message


def test_bad_images_can_be_skipped(tmp_path, caplog):
    """detectron2's `MapDataset` of an iterable drops what the mapper returns None for."""
    save_image(tmp_path / "good.png")
    mapper = ReportingMapper(DatasetMapper(get_cfg(), is_train=True), skip=True)
    records = [record(tmp_path / "gone.png", 1), record(tmp_path / "good.png", 2)]
    with caplog.at_level(logging.WARNING, logger="mrcnn_plugin.data.reading"):
        assert mapper(records[0]) is None
        mapped = list(MapDataset(ToIterableDataset(records, SequentialSampler(records)), mapper))
    assert [one["image_id"] for one in mapped] == [2]
    assert mapper.skipped == 2
    assert "skipped, 2 so far in this process" in caplog.text and "gone.png" in caplog.text
