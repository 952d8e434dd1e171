"""Tiles of a dataset, compared with slices of numpy arrays."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
from coco_files import annotation, write_dataset

from mrcnn_plugin.data.check import check_content
from mrcnn_plugin.data.findings import Findings
from mrcnn_plugin.data.tiling import Options, tile_dataset, tile_names

HEIGHT, WIDTH = 70, 110


def encoded(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def disc(x, y, radius):
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def hollow():
    """Two parts, one of them with a hole, on several seams."""
    return (disc(40, 35, 22) & ~disc(40, 35, 9)) | disc(90, 60, 8)


def dataset(folder, masks, file_name="scan.png", **changes):
    """One image of noise with the masks as annotations, of which `changes` are by position."""
    annotations = []
    for k, mask in enumerate(masks):
        rle = encoded(mask)
        box = mask_utils.toBbox(rle).tolist()
        one = annotation(k + 10, 5, k % 2 + 1, bbox=box, area=int(mask.sum()), segmentation=rle)
        annotations.append({**one, **changes.get(f"at{k}", {})})
    content = {
        "images": [{"id": 5, "file_name": file_name, "width": WIDTH, "height": HEIGHT}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    write_dataset(folder, content, size=(WIDTH, HEIGHT))
    return content


def tiled(folder, content, **options):
    findings = Findings("data.json")
    content = check_content(content, findings, str(folder))
    options = Options(**{"size": 40, "overlap": 12, "min_visible": 0.0, **options})
    result, counts = tile_dataset(content, str(folder), folder / "tiles", options)
    assert json.loads(json.dumps(result)) == result
    return result, counts


def test_tiles_are_slices_of_the_image_and_the_masks(tmp_path):
    """Every pixel of every object is in every tile that covers it, and nothing else is."""
    masks = [hollow(), disc(100, 10, 6), disc(12, 60, 7)]
    result, counts = tiled(tmp_path, dataset(tmp_path, masks))
    image = cv2.imread(str(tmp_path / "scan.png"))
    seen = np.zeros((HEIGHT, WIDTH), int)
    parts = 0
    for record in result["images"]:
        left, top = record["tile"]["left"], record["tile"]["top"]
        place = np.s_[top : top + record["height"], left : left + record["width"]]
        assert record["file_name"] == f"scan_tile_{top}_{left}.png"
        assert record["tile"]["file_name"] == "scan.png"
        pixels = cv2.imread(str(tmp_path / "tiles" / record["file_name"]))
        np.testing.assert_array_equal(pixels, image[place])
        seen[place] += 1
        mine = [a for a in result["annotations"] if a["image_id"] == record["id"]]
        assert {a["source_id"] for a in mine} == {
            k + 10 for k, mask in enumerate(masks) if mask[place].any()
        }
        for a in mine:
            mask = masks[a["source_id"] - 10][place]
            np.testing.assert_array_equal(mask_utils.decode(a["segmentation"]), mask)
            rows, columns = np.nonzero(mask)
            corner = columns.min(), rows.min()
            expected = (*corner, columns.max() + 1 - corner[0], rows.max() + 1 - corner[1])
            assert tuple(a["bbox"]) == expected and a["area"] == mask.sum()
            assert a["category_id"] == (a["source_id"] - 10) % 2 + 1
        parts += len(mine)
    assert seen.min() == 1 and counts["tiles"] == len(result["images"]) == 12
    assert counts["parts"] == parts == len({a["id"] for a in result["annotations"]})


def test_polygons_are_cut_as_they_are_drawn(tmp_path):
    outline = [10.5, 8.2, 95.1, 12.0, 80.7, 66.4, 20.0, 50.0]
    content = dataset(tmp_path, [disc(50, 30, 20)], at0={"segmentation": [outline]})
    whole = mask_utils.decode(mask_utils.frPyObjects([outline], HEIGHT, WIDTH))[..., 0]
    result, _ = tiled(tmp_path, content, size=64, overlap=20)
    assert len(result["annotations"]) == 6
    for record, a in zip(result["images"], result["annotations"]):
        left, top = record["tile"]["left"], record["tile"]["top"]
        np.testing.assert_array_equal(
            mask_utils.decode(a["segmentation"]), whole[top : top + 64, left : left + 64]
        )


def test_slivers_are_dropped_but_large_parts_and_crowds_are_not(tmp_path):
    """Of an object of 46 columns, the first tile has 2 (4%), and all rows are in both tiles."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10, 38:84] = True
    content = dataset(tmp_path, [mask, mask], at1={"iscrowd": 1})

    def in_first_tile(**options):
        result, counts = tiled(tmp_path, content, size=40, overlap=1, **options)
        return [a["iscrowd"] for a in result["annotations"] if a["image_id"] == 1], counts

    assert in_first_tile(min_visible=0.1)[0] == [1]
    assert in_first_tile(min_visible=0.1)[1]["slivers"] == 1
    assert in_first_tile(min_visible=0.04)[0] == [0, 1]
    mask[5:40, 38:110] = True  # 70 pixels, 3% of the object, but more than 1% of the tile
    content = dataset(tmp_path, [mask, mask], at1={"iscrowd": 1})
    assert in_first_tile(min_visible=0.1)[0] == [0, 1]


def test_a_share_of_the_empty_tiles_is_kept(tmp_path):
    content = dataset(tmp_path, [disc(10, 10, 5)])
    kept = {}
    for share in (0.0, 0.5, 1.0):
        result, counts = tiled(tmp_path, content, empty=share, size=16, overlap=4)
        kept[share] = {image["file_name"] for image in result["images"]}
        with_objects = {a["image_id"] for a in result["annotations"]}
        assert counts["kept_empty"] == len(kept[share]) - len(with_objects)
    assert kept[0.0] < kept[0.5] < kept[1.0] and len(kept[0.0]) == 4 == len(with_objects)
    assert counts["empty"] == 50 == counts["tiles"] - 4
    assert 10 < len(kept[0.5]) - 4 < 40


@pytest.mark.parametrize("name", ["deep/scan.JPG", "deep/scan.tif"])
def test_tiles_keep_subfolders_and_jpegs_stay_jpegs(tmp_path, name):
    content = dataset(tmp_path, [disc(10, 10, 5)], name)
    result, _ = tiled(tmp_path, content, size=200, overlap=1)
    (record,) = result["images"]
    assert record["file_name"] == f"deep/scan_tile_0_0.{'jpg' if 'JPG' in name else 'png'}"
    pixels = cv2.imread(str(tmp_path / "tiles" / record["file_name"])).astype(int)
    assert np.abs(pixels - cv2.imread(str(tmp_path / name))).mean() < 3


def test_names_of_tiles_are_unique():
    names = ["a.png", "b.png", "b.jpg", "c/b.png", "a.png.png"]
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    expected = ["a", "b.png", "b.jpg", "c/b", "a.png.png"]
    assert list(tile_names(images).values()) == expected
