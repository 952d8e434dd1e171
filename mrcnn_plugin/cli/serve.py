"""mrcnn serve: a local page that finds instances in images with a model file (docs/predict.md).

examples:
  mrcnn serve output/model_best.pth
  mrcnn serve output/model_best.pth --device cpu --port 8000

The page is for this machine only (127.0.0.1), and nothing is sent to any network. Programs can use
it through Gradio's client. It needs Gradio: pip install 'mrcnn_plugin[serve]'. Ctrl-C ends it.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from detectron2.structures import Instances
from PIL import Image

from ..checkpoint.model_file import read_model_file
from ..data.image_file import ImageFault
from ..errors import RunError
from ..inference.formats import to_coco, to_numbers
from ..inference.inputs import read_image
from ..inference.outputs import coco_head, draw_overlay, without_empty
from ..inference.predictor import Predictor
from .predict import positive

_LOWEST = 0.05  # of the scores that the page can show
_OFF = ("share", "enable_monitoring", "mcp_server", "pwa", "ssr_mode")
_PRIVATE = dict.fromkeys(_OFF, False) | {"allowed_paths": [], "footer_links": ["api"]}
_PRIVATE |= {"prevent_thread_lock": True, "quiet": True}


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mrcnn serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model file of a run, such as model_best.pth")
    add("--device", help="cpu or cuda; default: cuda if there is a GPU")
    add("--port", type=positive, default=7860, help="default 7860")
    add("--tile", type=positive, metavar="PIXELS", help="predict larger images in such tiles")
    add("--max-megabytes", type=positive, default=50, help="of an uploaded file; default 50")
    add("--max-megapixels", type=positive, default=50, help="of an image; default 50")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM; returns the exit status."""
    args = argument_parser().parse_args(argv)
    Image.MAX_IMAGE_PIXELS = args.max_megapixels * 500_000  # Pillow raises an error at twice this
    content = read_model_file(args.model)
    model = Predictor(content, device=args.device, threshold=_LOWEST, tile=args.tile)
    threshold = sum(content.thresholds()) / len(content.class_names)
    with tempfile.TemporaryDirectory(prefix="mrcnn_serve_") as folder:
        gradio = _import_gradio(folder)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        page = build_page(gradio, model, folder, threshold=round(threshold, 2))
        try:
            page.launch(
                server_name="127.0.0.1",
                server_port=args.port,
                max_file_size=f"{args.max_megabytes}mb",
                theme=gradio.themes.Base(font=["sans-serif"], font_mono=["monospace"]),
                **_PRIVATE,
            )
        except (OSError, OverflowError) as error:
            raise RunError(f"port {args.port} cannot be used ({error}). Pass --port.") from error
        print(f"http://127.0.0.1:{args.port}   (Ctrl-C ends it)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return 130
        finally:
            page.close(verbose=False)
    return 0


def _import_gradio(folder: str):
    """Gradio without analytics, which keeps all files in `folder`.

    Raises:
        RunError: it is not installed, or too old.
    """
    os.environ["GRADIO_TEMP_DIR"] = folder
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOWED_PATHS"):  # it reads the second for []
        os.environ[name] = ""
    try:
        import gradio
    except ImportError as error:
        raise RunError(
            f"the page needs Gradio ({error}). Run `pip install 'mrcnn_plugin[serve]'`."
        ) from error
    if int(gradio.__version__.split(".")[0]) < 6:
        raise RunError(
            f"Gradio is {gradio.__version__}, which lets web pages read files; expected 6 or "
            "newer. Run `pip install 'mrcnn_plugin[serve]'`."
        )
    return gradio


def build_page(gradio, model: Predictor, folder: str, *, threshold: float):
    """The page; its API has `/predict` for an image and `/filter` for other thresholds of it.

    Args:
        gradio: the module.
        model: finds everything from the lowest score on that can be shown.
        folder: receives the files to download.
        threshold: at the start.
    """
    names = model.class_names

    def predict(path: str, threshold: float, classes: list[str]):
        found = path, without_empty(model(read(path)))
        return found, *filtered(found, threshold, classes)

    def filtered(found: tuple[str, Instances] | None, threshold: float, classes: list[str]):
        if found is None:
            return None, "", None, None
        path, instances = found
        chosen = torch.tensor([name in classes for name in names])
        kept = instances[(instances.scores >= threshold) & chosen[instances.pred_classes]]
        drawn = draw_overlay(read(path), kept, names)[:, :, ::-1]
        return drawn, f"{len(kept)} instances", *_write(kept, path, names, folder)

    def read(path: str):
        try:
            return read_image(path)
        except ImageFault as error:
            raise gradio.Error(f"{Path(path).name}: {error}", print_exception=False) from error

    with gradio.Blocks(title="mrcnn", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        state = gradio.State(time_to_live=3600)
        with gradio.Row():
            with gradio.Column(scale=1):
                file = gradio.File(label="Image", file_types=["image"], type="filepath")
                slider = gradio.Slider(_LOWEST, 1, threshold, step=0.01, label="Threshold")
                boxes = gradio.CheckboxGroup(names, value=names, label="Classes")
                count = gradio.Markdown()
                buttons = [gradio.DownloadButton(text) for text in ("COCO json", "Masks")]
            with gradio.Column(scale=3):
                image = gradio.Image(
                    format="png", show_label=False, buttons=["download", "fullscreen"]
                )
        inputs, outputs = [slider, boxes], [image, count, *buttons]
        options = {"show_progress": "minimal", "concurrency_id": "model"}
        file.upload(predict, [file, *inputs], [state, *outputs], api_name="predict", **options)
        options |= {"api_name": "filter", "trigger_mode": "always_last"}
        changes = [slider.change, boxes.change]
        gradio.on(changes, filtered, [state, *inputs], outputs, **options)
    return page


def _write(instances: Instances, path: str, names: list[str], folder: str) -> list[str | None]:
    """Write the json and the masks of an image, to be downloaded; returns their paths."""
    height, width = instances.image_size
    image = {"id": 1, "file_name": Path(path).name, "width": width, "height": height}
    content = coco_head(names) | {"images": [image], "annotations": to_coco(instances, 1)}
    start = Path(tempfile.mkdtemp(dir=folder), Path(path).stem)
    start.with_name(f"{start.name}.json").write_text(json.dumps(content))
    if not instances.has("pred_masks"):
        return [f"{start}.json", None]
    cv2.imwrite(f"{start}_masks.png", to_numbers(instances))
    return [f"{start}.json", f"{start}_masks.png"]
