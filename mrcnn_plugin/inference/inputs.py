"""Finds the images that `mrcnn predict` is given, and reads them ahead of the model."""

import functools
import glob
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import detection_utils

from ..data.convert.writer import IMAGE_SUFFIXES
from ..data.image_file import ImageFault, read_header
from ..errors import RunError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

_READERS = 2  # threads; Pillow and OpenCV decode outside the interpreter lock


class Frame(NamedTuple):
    """An image to predict, or the reason why there is none.

    Attributes:
        name: unique and relative: that of the file, or VIDEO/000123.png for a frame of a video.
        stem: unique and without the suffix where that is possible.
        path: the file of the image; None for a frame of a video.
        image: BGR uint8 (height, width, 3), or None.
        error: the reason, or None.
    """

    name: str
    stem: str
    path: str | None
    image: np.ndarray | None
    error: str | None = None


class Inputs:
    """The images and videos that the arguments of `mrcnn predict` name, each once.

    Attributes:
        root: the closest directory that contains all of them.
        names: of all of them, relative to `root`, sorted.
    """

    def __init__(self, arguments: Sequence[str], *, skipped_folders: Iterable[str | Path]):
        """
        Args:
            arguments: images, videos, directories that are searched for them, glob patterns, or
                `.txt` files with a path of an image or video per line, relative to the text file.
            skipped_folders: are not searched, because they have the results.

        Raises:
            RunError: an argument names nothing, or there is no image or video.
        """
        skipped = {os.path.realpath(folder) for folder in skipped_folders}
        paths = {os.path.abspath(path) for a in arguments for path in _expand(a, skipped)}
        if not paths:
            raise RunError(
                f"{', '.join(arguments)} has no image or video; expected files that end in "
                f"{', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
            )
        self.root = os.path.commonpath([os.path.dirname(path) for path in paths])
        self.names = sorted(os.path.relpath(path, self.root).replace(os.sep, "/") for path in paths)
        stems = Counter(map(_without_suffix, self.names))
        self._ambiguous = {stem for stem, count in stems.items() if count > 1}
        self._ambiguous |= stems.keys() & {*self.names}

    def select(self, names: Iterable[str]) -> None:
        """Restrict the inputs to some of the names."""
        self.names = list(names)

    def num_frames(self) -> int:
        """The number of images and of frames, as far as the videos declare it."""
        return sum(_num_frames(self._path(n)) if is_video(n) else 1 for n in self.names)

    def read(self) -> Iterator[Frame]:
        """Every image and every frame of the videos, in order. A few images are read ahead."""
        names = iter(self.names)
        with ThreadPoolExecutor(_READERS) as pool:
            running = deque(pool.submit(self._frames, n) for n in islice(names, 2 * _READERS))
            while running:
                yield from running.popleft().result()
                running.extend(pool.submit(self._frames, n) for n in islice(names, 1))

    def _frames(self, name: str) -> Iterable[Frame]:
        """The frames of a file: an image is read now, a video when it is iterated over."""
        return self._read_video(name) if is_video(name) else [self._read_image(name)]

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def _read_image(self, name: str) -> Frame:
        stem, path = _without_suffix(name), self._path(name)
        stem = name if stem in self._ambiguous else stem
        try:
            return Frame(name, stem, path, read_image(path))
        except ImageFault as error:
            return Frame(name, stem, path, None, str(error))

    def _read_video(self, name: str) -> Iterator[Frame]:
        video = _open_video(self._path(name))
        declared, number = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        try:
            while True:
                there, image = video.read()
                if not there:
                    break
                stem = f"{name}/{number:06}"
                yield Frame(f"{stem}.png", stem, None, image)
                number += 1
        finally:
            video.release()
        if number < 0.98 * declared or not number:  # containers may declare a few frames too many
            error = f"the video ends after {number} of {max(declared, 0)} frames"
            yield Frame(name, name, self._path(name), None, error)


def read_image(path: str) -> np.ndarray:
    """An image file as BGR uint8 (height, width, 3), with its EXIF rotation applied.

    Raises:
        ImageFault: it cannot be read, or is larger than Pillow's `Image.MAX_IMAGE_PIXELS` allows.
    """
    try:
        read_header(path)  # rejects what would hang or be misread
        return detection_utils.read_image(path, format="BGR")
    except ImageFault:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds for damaged files
        raise ImageFault("unreadable-image", f"{type(error).__name__}: {error}") from error


def is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


def _open_video(path: str) -> cv2.VideoCapture:
    return cv2.VideoCapture(os.fsencode(path))  # OpenCV crashes on a str that is not UTF-8


def _num_frames(path: str) -> int:
    return max(1, int(_open_video(path).get(cv2.CAP_PROP_FRAME_COUNT)))


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0]


def _expand(argument: str, skipped: set[str]) -> Iterator[str]:
    """The files that an argument names.

    Raises:
        RunError: it names nothing.
    """
    if os.path.isdir(argument):
        yield from _walk(argument, skipped)
    elif os.path.isfile(argument) and argument.lower().endswith(".txt"):
        yield from _listed(argument)
    elif os.path.exists(argument):
        yield argument
    elif matches := sorted(glob.glob(argument, recursive=True)):
        for match in matches:
            folder = match if os.path.isdir(match) else os.path.dirname(match)
            if not _is_below(folder, tuple(skipped)):
                yield from _walk(match, skipped) if folder == match else [match]
    else:
        raise RunError(
            f"'{argument}' does not exist and no file matches it; expected an image, a video, a "
            "directory, a pattern, or a .txt file with one path per line"
        )


@functools.cache
def _is_below(folder: str, parents: tuple[str, ...]) -> bool:
    """Whether a directory is one of `parents`, which have no symbolic links, or below one."""
    return f"{os.path.realpath(folder)}/".startswith(tuple(f"{parent}/" for parent in parents))


def _walk(folder: str, skipped: set[str]) -> Iterator[str]:
    """The images and videos in a directory and its subdirectories, except hidden ones."""
    for parent, folders, files in os.walk(folder):
        paths = [os.path.join(parent, name) for name in folders if name[0] != "."]
        folders[:] = [os.path.basename(p) for p in paths if os.path.realpath(p) not in skipped]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES) and name[0] != ".":
                yield os.path.join(parent, name)


def _listed(text_file: str) -> Iterator[str]:
    """The paths in a text file. They are not opened yet, as there may be millions."""
    folder = os.path.dirname(text_file)
    with open(text_file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            if line.strip():
                yield os.path.join(folder, line.strip())
