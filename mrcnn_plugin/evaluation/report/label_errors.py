"""Images with the most probable errors of their ground truth."""

from collections.abc import Iterable

from .images import contiguous_ids, draw_pair, instances_of

_NUM_IMAGES = 6


def label_error_images(
    dataset_name: str, dataset_dicts: Iterable[dict], analysis: dict
) -> list[dict]:
    """Draw the ground truth and the detections that contradict it, the highest score first.

    Args:
        dataset_name: registered, with images that can be read.
        dataset_dicts: of the dataset.
        analysis: of its evaluation. An older one has no label errors.

    Returns:
        what `draw_pair` returns for each of at most six images, with `found`, one sentence per
        error. Images that cannot be drawn are skipped with a warning.

    Raises:
        RunError: a mask of the analysis is not one of the image.
    """
    by_image: dict = {}
    for error in analysis.get("label_errors", []):
        by_image.setdefault(error["image_id"], []).append(error)
    dicts = {d["image_id"]: d for d in dataset_dicts if d["image_id"] in by_image}
    contiguous = contiguous_ids(dataset_name)
    images = []
    for image_id, errors in [(i, e) for i, e in by_image.items() if i in dicts][:_NUM_IMAGES]:
        image = dicts[image_id]
        instances = instances_of(errors, image["height"], image["width"], contiguous)
        pair = draw_pair(image, instances, dataset_name)
        if pair:
            images.append({**pair, "found": [_sentence(error) for error in errors]})
    return images


def _sentence(error: dict) -> str:
    found = f"{error['predicted']} ({error['score']:.2f})"
    if error["kind"] == "missing":
        return f"{found} is not labelled"
    return f"{found} is labelled {error['labelled']}"
