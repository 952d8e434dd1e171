"""`mrcnn dataset tile`: large images cut into overlapping tiles, masks included."""

import argparse
import os
import shlex
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..data.coco_file import DataError, write_json
from ..data.findings import Severity, format_problems
from ..data.tiling import TILE_GROUP, Options, tile_dataset
from .dataset_check import add_crowds_argument, read_checked

_LINES = 10  # per kind of problem


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share; expected a number from 0 to 1")
    return value


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mrcnn dataset tile`."""
    parser.set_defaults(boxes_only=False)  # masks are cut
    parser.add_argument("data", metavar="JSON:IMAGES", help="COCO json and directory of the images")
    default = Options()
    parser.add_argument("--out", type=Path, required=True, help="new directory")
    parser.add_argument("--size", type=int, default=default.size, help="of a tile in pixels")
    parser.add_argument("--overlap", type=int, default=default.overlap, help="in pixels")
    parser.add_argument(
        "--min-visible",
        type=_share,
        default=default.min_visible,
        metavar="SHARE",
        help="drop parts with a smaller share of their object's pixels (default %(default)s), "
        "unless they cover 1%% of the tile",
    )
    parser.add_argument(
        "--empty",
        type=_share,
        default=default.empty,
        metavar="SHARE",
        help="keep this share of the tiles without objects (default %(default)s)",
    )
    parser.add_argument("--drop-bad", action="store_true", help="skip unusable entries")
    add_crowds_argument(parser)
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="of an image; raises Pillow's limit, for files whose origin you trust",
    )


def tile(args: argparse.Namespace) -> int:
    """Write `--out/tiles.json` and `--out/images/`, all or nothing."""
    if args.size < 2:
        raise DataError(f"--size is {args.size}; expected the side of a tile in pixels, 2 or more")
    if not 1 <= args.overlap < args.size:
        raise DataError(
            f"--overlap is {args.overlap}; expected from 1 to {args.size - 1}, less than --size"
        )
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise DataError(f"{args.out} exists already. Choose another directory with --out")
    if args.max_pixels:
        Image.MAX_IMAGE_PIXELS = args.max_pixels // 2 + 1  # Pillow raises above twice this number
    content, findings = read_checked(args.data, args, drop_bad=args.drop_bad)
    errors = [p for p in findings.problems if p.severity is Severity.ERROR]
    if errors:
        raise DataError(
            "the data have errors. Fix them, or pass --drop-bad to skip unusable entries\n"
            + format_problems(errors, limit=_LINES)
        )
    _reject_outside(content)
    counts = _write(content, args)
    objects = sum(not annotation["iscrowd"] for annotation in content["annotations"])
    print(
        f"{len(content['images'])} images: {counts['tiles']} tiles, {counts['empty']} of them "
        f"without objects ({counts['kept_empty']} kept); {objects} objects: {counts['parts']} "
        f"parts, {counts['slivers']} slivers dropped"
    )
    command = ["mrcnn", "dataset", "split", f"{args.out / 'tiles.json'}:{args.out / 'images'}"]
    command += ["--group-by", TILE_GROUP, "--out", str(args.out / "split")]
    print(f"next: {shlex.join(command)}")
    return 0


def _reject_outside(content: dict) -> None:
    """Absolute names pass the check if the image directory is /; as names of tiles they cannot."""
    for image in content["images"]:
        name = os.path.normpath(image["file_name"])
        if os.path.isabs(name) or name.startswith(".."):
            raise DataError(
                f"the file name {image['file_name']} is not relative to the image directory, "
                "which names of tiles are made from"
            )


def _write(content: dict, args: argparse.Namespace) -> dict:
    """Write into a temporary folder that gets its name at the end."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{args.out.name}.unfinished.", dir=args.out.parent))
    options = Options(args.size, args.overlap, args.min_visible, args.empty)
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        (folder / "images").mkdir()
        with tqdm(total=len(content["images"]), unit=" images", disable=None) as bar:
            tiles, counts = tile_dataset(
                content, args.data.image_root, folder / "images", options, on_image=bar.update
            )
        write_json(tiles, folder / "tiles.json")
        if args.out.exists():
            args.out.rmdir()  # an empty directory
        os.replace(folder, args.out)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return counts
