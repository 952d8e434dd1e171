"""Images that show nearly the same, and images that do not."""

import numpy as np
import pytest
from coco_files import coco_content, save_image, write_dataset
from PIL import Image, ImageEnhance

from mrcnn_plugin.cli.dataset import main
from mrcnn_plugin.data.image_file import read_header
from mrcnn_plugin.data.near_duplicates import (
    BITS,
    THRESHOLD,
    difference_hashes,
    join_near_duplicates,
    nearest_pairs,
)


def cropped(image):
    x, y = image.width // 100, image.height // 100
    return image.crop((x, y, image.width - x, image.height - y))


# What is done to a copy, and how it is saved.
COPIES = {
    "compressed again": (lambda image: image, {"quality": 60}),
    "half as large": (lambda image: image.resize((image.width // 2, image.height // 2)), {}),
    "cropped by 1% at each side": (cropped, {}),
    "30% brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), {}),
}


def hashes_of(paths):
    return difference_hashes([read_header(path, decode=True).thumbnail for path in paths])


@pytest.fixture
def images(real_images):
    patterns = "coco_tiny/*2017/*.jpg", "fruits_nuts/images/*.jpg", "labelme_voc3/*annotated/*.jpg"
    return [path for pattern in patterns for path in sorted(real_images.glob(pattern))]


def test_different_real_images_are_far_apart(images):
    hashes = hashes_of(images)
    assert (np.abs(hashes) == 1).all() and len(hashes) == 121
    assert join_near_duplicates(hashes, np.arange(121))[1] == []
    differing = (BITS - hashes @ hashes.T) / 2
    assert differing[~np.eye(len(hashes), dtype=bool)].min() > 1.5 * THRESHOLD


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(tmp_path, images, name):
    change, options = COPIES[name]
    copies = [tmp_path / path.name for path in images[::4]]
    for path, copy in zip(images[::4], copies):
        change(Image.open(path).convert("RGB")).save(copy, **options)
    found = list(nearest_pairs(hashes_of(copies), hashes_of(images)))
    assert [(left, right) for left, right, _ in found] == [(k, 4 * k) for k in range(len(copies))]


def test_images_without_content_are_similar_to_none(tmp_path):
    """Blank ones, and a gradient of light."""
    light = np.add.outer(np.arange(100), np.arange(120)).astype(np.uint8)
    for name, pixels in {"a": light * 0, "b": light * 0 + 200, "c": light, "d": light}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    hashes = hashes_of(sorted(tmp_path.glob("*.png")))
    assert hashes.shape == (4, BITS) and not hashes.any()
    assert (
        join_near_duplicates(hashes, np.arange(4))[1] == [] == list(nearest_pairs(hashes, hashes))
    )


def test_near_duplicates_of_near_duplicates_are_joined():
    """Frames of a slow film: each is similar to the one before, the first and last are not.

    Of 1100 frames in a shuffled order, two films of 550, and a group that has a frame of each.
    """
    rng = np.random.default_rng(0)
    films = rng.choice([-1.0, 1.0], (2, 1, BITS)).repeat(550, axis=1).astype(np.float32)
    for step in range(1, 550):
        films[:, step] = films[:, step - 1]
        films[:, step, rng.choice(BITS, 2, replace=False)] *= -1
    order = rng.permutation(1100)
    film_of, hashes = order // 550, films.reshape(1100, BITS)[order]
    labels, pairs = join_near_duplicates(hashes, np.arange(1100))
    assert len(pairs) == 1098 and max(bits for *_, bits in pairs) <= THRESHOLD
    assert all(film_of[a] == film_of[b] for a, b, _ in pairs)
    first = [int(np.flatnonzero(film_of == film)[0]) for film in (0, 1)]
    np.testing.assert_array_equal(labels, np.array(first)[film_of])
    given = np.arange(1100)
    given[first] = 0
    labels, pairs = join_near_duplicates(hashes, given)
    assert not labels.any() and len(pairs) == 1098


@pytest.fixture
def two_sets(tmp_path):
    """Three images each; validation image 2 is training image 1, compressed."""
    content = coco_content(3, width=200, height=100)
    paths = [write_dataset(tmp_path / s, content, size=(200, 100)) for s in ("train", "val")]
    blocks = np.random.default_rng(0).integers(0, 256, (5, 10, 3), np.uint8)
    image = Image.fromarray(np.kron(blocks, np.ones((20, 20, 1), np.uint8)))
    image.save(tmp_path / "train/1.png")
    image.save(tmp_path / "val/2.png", format="JPEG", quality=70)
    return paths


def test_the_check_finds_them_across_a_split(two_sets, capsys):
    train, val = two_sets
    arguments = ["check", str(train), "--val", str(val)]
    assert main([*arguments, "--full"]) == 0
    printed = capsys.readouterr().out
    expected = f"{train.parent}/1.png, image 1: looks like validation image 2, {val.parent}/2.png"
    assert "warning: train-val-near-duplicate (1)" in printed and expected in printed
    main(arguments)
    printed = capsys.readouterr().out
    assert "near-duplicate" not in printed and "were not searched for; --full" in printed


def test_the_check_finds_them_in_one_set(two_sets, capsys):
    """They would be on both sides of --val-fraction."""
    folder = two_sets[0].parent
    (folder / "3.png").write_bytes((folder / "1.png").read_bytes())
    main(["check", str(two_sets[0]), "--full"])
    printed = capsys.readouterr().out
    assert "warning: near-duplicates (1)" in printed
    assert f"1 images look like another one, such as {folder}/3.png like {folder}/1.png" in printed
    save_image(folder / "3.png", 200, 100)
    main(["check", str(two_sets[0]), "--full"])
    assert "near-duplicates" not in capsys.readouterr().out
