"""What `mrcnn dataset check` reports about data that would train, but on the wrong things."""

import json

import cv2
import numpy as np
import pytest
from coco_files import annotation, coco_content, save_image, write_dataset
from PIL import Image

from mrcnn_plugin.cli.dataset import main


@pytest.fixture
def run(capsys):
    """`run("check", ...)` -> (exit status or message, what was printed)."""

    def run(*arguments):
        return main(list(map(str, arguments))), capsys.readouterr().out

    return run


def squares(**changes):
    """Four images of 40 x 30 pixels with two 10 x 12 rectangles each, changed by functions."""
    content = coco_content(4, width=40, height=30)
    content["annotations"] = []
    for k in range(8):
        x, y = 3 + k, 2 + k
        one = {
            "bbox": [x, y, 10, 12],
            "segmentation": [[x, y, x + 10, y, x + 10, y + 12, x, y + 12]],
        }
        one |= {key: change(one[key]) for key, change in changes.items()}
        content["annotations"].append(annotation(k + 1, k // 2 + 1, k % 2 + 1, **one))
    return content


def write(folder, content, **options):
    return write_dataset(folder, content, size=(40, 30), **options)


def test_crowds_are_taken_as_objects_on_request(run, tmp_path):
    content = squares()
    for one in content["annotations"]:
        one["iscrowd"] = 1
    path = write(tmp_path, content)
    code, printed = run("check", path)
    assert code == 1 and "0 annotations to train on and 8 crowd regions" in printed
    assert "error: nothing-to-train-on (1)" in printed and "pass --crowds-as-objects" in printed
    code, printed = run("check", path, "--crowds-as-objects", "--write", tmp_path / "new.json")
    assert code == 0 and "8 annotations to train on; 0 error" in printed
    assert "next: mrcnn train" in printed and "--crowds-as-objects\n" in printed
    written = json.loads((tmp_path / "new.json").read_text())["annotations"]
    assert [one["iscrowd"] for one in written] == [0] * 8


def test_boxes_are_rebuilt_from_masks_only_on_request(run, tmp_path):
    path = write(tmp_path, squares(bbox=lambda b: [*b[:2], b[0] + b[2], b[1] + b[3]]))
    code, printed = run("check", path)
    assert code == 1 and "8 of 8 sampled boxes are [x1, y1, x2, y2]" in printed
    assert "or write the boxes of the masks by `mrcnn dataset check JSON:IMAGES --boxes" in printed
    assert "changes only the json of --write" in run("check", path, "--boxes-from-masks")[0]
    options = "--boxes-from-masks", "--write", tmp_path / "new.json"
    code, printed = run("check", path, *options)
    assert code == 0 and "8 of 8 boxes differ from their masks, such as [3, 2, 13, 14]" in printed
    assert f"=data={tmp_path}/new.json" in printed.replace("--train ", "=")
    written = json.loads((tmp_path / "new.json").read_text())["annotations"]
    assert [one["bbox"] for one in written] == [one["bbox"] for one in squares()["annotations"]]
    code, printed = run("check", tmp_path / "new.json")
    assert code == 0 and "0 error, 0 dropped, 0 warning, 0 repaired" in printed


def test_boxes_that_contradict_their_masks_otherwise(run, tmp_path):
    """Exchanged sides are not corners; three of eight are reported, two are not."""
    content = squares()
    for count, expected in ((3, "warning: boxes-contradict-masks (1)"), (2, "0 warning")):
        for k, one in enumerate(content["annotations"]):
            one["bbox"] = [3 + k, 2 + k, *((4, 30 - k - 2) if k < count else (10, 12))]
        code, printed = run("check", write(tmp_path, content))
        assert code == 0 and expected in printed
    code, printed = run("stats", tmp_path / "data.json")
    assert code == 0 and "8 instances" in printed


def test_normalised_outlines(run, tmp_path):
    path = write(tmp_path, squares(segmentation=lambda s: [[v / 40 for v in s[0]]]))
    code, printed = run("check", path)
    assert code == 1 and "8 of 8 sampled masks have only values up to 1, such as [0.075" in printed
    assert "multiply coordinates by the width and height" in printed


@pytest.mark.parametrize("depth", [1, 2])
def test_outlines_of_pairs_get_a_hint(run, tmp_path, depth):
    def pairs(segmentation):
        points = np.reshape(segmentation[0], (-1, 2)).tolist()
        return points if depth == 1 else [points]

    code, printed = run("check", write(tmp_path, squares(segmentation=pairs)))
    assert code == 1 and "error: degenerate-polygon (8)" in printed
    assert "write each polygon as [x1, y1, x2, y2, ...] and not as [[x1, y1], " in printed
    assert "the other problems say why the rest cannot be used" in printed


def test_ids_of_another_type_get_a_hint(run, tmp_path):
    content = squares()
    for image in content["images"]:
        image["id"] = str(image["id"])
    code, printed = run("check", write(tmp_path, content))
    assert code == 1 and "there is no image 1 in the file; there is an image '1'" in printed


def test_boxes_only(run, tmp_path):
    content = squares()
    for one in content["annotations"]:
        del one["segmentation"]
    path = write(tmp_path, content)
    code, printed = run("check", path)
    assert code == 1 and "error: no-mask (8)" in printed and "--boxes-only" in printed
    code, printed = run("check", path, "--boxes-only")
    assert code == 0 and "0 error" in printed and "MODEL.MASK_ON False" in printed
    assert "8 instances" in run("stats", path, "--boxes-only")[1]
    code, printed = run("draw", path, tmp_path / "drawn", "--boxes-only")
    assert code == 0 and "not drawn" not in printed
    drawn = cv2.imread(str(tmp_path / "drawn/1_1.jpg"))
    assert (drawn != cv2.imread(str(tmp_path / "1.png"))).any()


def test_draw_reports_what_it_cannot_draw(run, tmp_path):
    content = squares()
    content["annotations"][2]["bbox"] = [100, 100, 4, 4]
    path = write(tmp_path, content)
    (tmp_path / "4.png").unlink()
    code, printed = run("draw", path, tmp_path / "drawn")
    assert code == 0 and "3 images drawn" in printed
    assert "not drawn because they are unusable:\ndropped: missing-image (1)" in printed
    assert f"{path}, image 2, annotation 3: box [100, 100, 4, 4]" in printed


def test_draw_colours_by_class(run, tmp_path):
    """Two objects of one class have the colour of each other and not that of the other class."""
    content = coco_content(1, width=120, height=60)
    outline = [[0, 0, 30, 0, 30, 40, 0, 40]]
    content["annotations"] = [
        annotation(
            k + 1,
            1,
            category,
            bbox=[x, 10, 30, 40],
            segmentation=[[v + (x if i % 2 == 0 else 10) for i, v in enumerate(outline[0])]],
        )
        for k, (x, category) in enumerate([(5, 1), (45, 2), (85, 1)])
    ]
    path = write_dataset(tmp_path, content, images=False)
    Image.new("RGB", (120, 60), "gray").save(tmp_path / "1.png")
    assert run("draw", path, tmp_path / "drawn")[0] == 0
    drawn = cv2.imread(str(tmp_path / "drawn/1_1.jpg")).astype(int)
    first, second, third = (drawn[35:45, x + 10 : x + 20].mean((0, 1)) for x in (5, 45, 85))
    assert np.abs(first - third).max() < 5 and np.abs(first - second).max() > 30


def test_both_sets_are_reported(run, tmp_path):
    good = write(tmp_path / "good", squares())
    content = squares()
    content["annotations"][3]["category_id"] = 9
    bad = write(tmp_path / "bad", content)
    code, printed = run("check", good, "--val", bad)
    assert code == 1 and f"{bad}, image 2, annotation 4: category 9" in printed
    assert f"{good}: 4 images, 8 annotations" in printed
    assert f"{bad}: 4 images, 7 annotations" in printed
    for arguments in (
        (tmp_path / "gone.json", "--val", bad),
        (bad, "--val", tmp_path / "gone.json"),
    ):
        code, printed = run("check", *arguments)
        assert "gone.json does not exist" in code and "category 9" in printed


def test_a_validation_set_without_objects(run, tmp_path):
    good = write(tmp_path / "good", squares())
    empty = write(tmp_path / "empty", {**squares(), "annotations": []})
    code, printed = run("check", good, "--val", empty)
    assert code == 0 and "warning: nothing-to-evaluate (1)" in printed


def test_16_bit_images(run, tmp_path):
    """Grey ones are errors, since Pillow clips them; colour loses its lower 8 bits."""
    path = write(tmp_path, squares())
    grey = Image.fromarray(np.full((30, 40), 3000, np.uint16))
    grey.save(tmp_path / "1.png")
    grey.save(tmp_path / "2.png", format="TIFF")
    for name, suffix in (("3", "png"), ("4", "tif")):
        pixels = np.full((30, 40, 3), 300, np.uint16)
        cv2.imwrite(str(tmp_path / f"deep.{suffix}"), pixels)
        (tmp_path / f"deep.{suffix}").rename(tmp_path / f"{name}.png")
    for options in ((), ("--full",)):
        code, printed = run("check", path, *options)
        assert code == 1 and "error: pixel-depth (2)" in printed
        assert "mode I;16), which are clipped at 255; convert all images to 8 bits" in printed
        assert f"2 of 2 images read, such as {tmp_path}/3.png, have 16 bits per channel" in printed


def test_saturated_images(run, tmp_path):
    path = write(tmp_path, squares())
    white = np.full((30, 40, 3), 255, np.uint8)
    white[:14] = 100  # 53% of the rows are white
    Image.fromarray(white).save(tmp_path / "2.png")
    code, printed = run("check", path, "--full")
    assert code == 0 and "warning: saturated (1)" in printed
    assert f"1 of 4 images, such as {tmp_path}/2.png, are black or white in more" in printed
    white[:16] = 100
    Image.fromarray(white).save(tmp_path / "2.png")
    assert "0 warning" in run("check", path, "--full")[1]


def test_windows_separators_and_a_byte_order_mark(run, tmp_path):
    content = squares()
    for image in content["images"]:
        image["file_name"] = f"sub\\{image['file_name']}"
    path = write(tmp_path, content, images=False)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for k in range(1, 5):
        save_image(tmp_path / f"sub/{k}.png", 40, 30)
    code, printed = run("check", path, "--write", tmp_path / "new.json")
    assert code == 0 and "repaired: windows-path (4)" in printed
    names = [
        image["file_name"] for image in json.loads((tmp_path / "new.json").read_text())["images"]
    ]
    assert names == [f"sub/{k}.png" for k in range(1, 5)]


@pytest.mark.parametrize("name", ["1.png", "old\\1.png", "C:\\old\\1.png"])
def test_a_missing_subfolder_gets_a_hint(run, tmp_path, name):
    content = squares()
    content["images"][0]["file_name"] = name
    path = write(tmp_path, content, images=False)
    save_image(tmp_path / "train/1.png", 40, 30)
    code, printed = run("check", path)
    assert code == 1 and f"{tmp_path} has train/1.png: write that as file_name" in printed
    assert "write that as file_name" not in run("check", f"{path}:/")[1]
    code, printed = run("check", f"{path}:{tmp_path}/gone")
    assert f"the image directory {tmp_path}/gone does not exist" in printed


def test_stats_at_the_training_resolution(run, tmp_path):
    path = write(tmp_path, squares())
    code, printed = run("stats", path)
    assert code == 0 and "(shorter side 800, longer at most 1333): median 292 px" in printed
    options = "--opts", "INPUT.MIN_SIZE_TRAIN", "(30,)"
    code, printed = run("stats", path, *options)
    assert "median 11 px" in printed and "100% below 18 px" in printed
    assert "warning: most objects are too small for the anchors" in printed
