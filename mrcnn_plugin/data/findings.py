"""The problems that a dataset check finds, and how they are reported."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

# Faults that make detectron2 raise, crash, use memory without bound or train on random masks.
_STOPS_DETECTRON2 = (
    "unknown-category",
    "ignore",
    "no-image-size",
    "far-polygon",
    "rle-form",
    "rle-size",
    "rle-counts",
    "area-form",
    "iscrowd-form",
)
# Repairs that nobody has to act on: the evaluator makes the first two for every dataset.
_MINOR = ("no-info", "no-licenses", "no-area")


class Severity(Enum):
    """What a problem leads to, in the order of reports."""

    ERROR = "error"  # stops the run
    DROPPED = "dropped"  # an error; the entry is skipped because of DATASETS.DROP_BAD
    WARNING = "warning"  # reported; the data are used as they are
    REPAIRED = "repaired"  # repaired in the data that are used; the source file is not changed


class Problem(NamedTuple):
    """One fault, its place, and what was or should be done about it."""

    severity: Severity
    kind: str  # a word to group by, "unknown-category"
    fault: str  # what is wrong, with the values
    file: str  # the json or the image file
    image_id: Any = None
    annotation_id: Any = None
    action: str = ""  # what was done, or what to do

    @property
    def is_minor(self) -> bool:
        """Whether nobody has to act on it."""
        return self.kind in _MINOR[:2] or (
            self.kind in _MINOR and self.severity is Severity.REPAIRED
        )

    def __str__(self) -> str:
        where = [self.file]
        if self.image_id is not None:
            where.append(f"image {self.image_id}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        return f"{', '.join(where)}: {self.fault}" + (f"; {self.action}" if self.action else "")


@dataclass
class Findings:
    """The problems of one json file, and its unusable annotations and images.

    Args:
        json_file: names the file in problems.
        drop_bad: skip unusable annotations and images instead of reporting them as errors.
        as_is: others load the file and use it as it is. What would be repaired or dropped is then
            a warning, or an error if detectron2 raises on it.
    """

    json_file: str
    drop_bad: bool = False
    as_is: bool = False
    problems: list[Problem] = field(default_factory=list)
    bad_annotations: set[int] = field(default_factory=set)  # positions in the file's list
    bad_images: set[Any] = field(default_factory=set)  # image ids

    def repaired(self, kind: str, fault: str, action: str, image_id=None, annotation_id=None):
        """A fault that was repaired in the content."""
        severity = self._as_is(kind) if self.as_is else Severity.REPAIRED
        action = "" if self.as_is else action
        self._add(severity, kind, fault, self.json_file, image_id, annotation_id, action)

    def warning(
        self, kind: str, fault: str, *, file=None, image_id=None, annotation_id=None, action=""
    ):
        """A fault that the data are used with."""
        file = file or self.json_file
        self._add(Severity.WARNING, kind, fault, file, image_id, annotation_id, action)

    def error(self, kind: str, fault: str, *, action=""):
        """An error of the json that no option can turn into something else."""
        self._add(Severity.ERROR, kind, fault, self.json_file, None, None, action)

    def bad_annotation(self, index: int, annotation: dict, kind: str, fault: str, action=""):
        """Annotation `index` of the file cannot be used. Only its first fault is added."""
        if index in self.bad_annotations:
            return
        self.bad_annotations.add(index)
        severity = self._as_is(kind) if self.as_is else self._unusable
        ids = annotation.get("image_id"), annotation.get("id")
        self._add(severity, kind, fault, self.json_file, *ids, action)

    def bad_image(self, image_id: Any, file: str, kind: str, fault: str, action=""):
        """An image and its annotations cannot be used; training would fail on it."""
        if image_id in self.bad_images:
            return
        self.bad_images.add(image_id)
        severity = Severity.ERROR if self.as_is else self._unusable
        self._add(severity, kind, fault, file, image_id, None, action)

    @staticmethod
    def _as_is(kind: str) -> Severity:
        return Severity.ERROR if kind in _STOPS_DETECTRON2 else Severity.WARNING

    @property
    def _unusable(self) -> Severity:
        return Severity.DROPPED if self.drop_bad else Severity.ERROR

    def _add(self, *values):
        self.problems.append(Problem(*values))


def count_severities(problems: Iterable[Problem]) -> Counter:
    """How many problems of each `Severity`."""
    return Counter(problem.severity for problem in problems)


def format_problems(problems: list[Problem], *, limit: int | None = None) -> str:
    """One line per problem, grouped by severity and kind, with at most `limit` lines per kind."""
    lines = []
    for severity in Severity:
        of_severity = [p for p in problems if p.severity is severity]
        for kind in dict.fromkeys(p.kind for p in of_severity):
            group = [p for p in of_severity if p.kind == kind]
            lines.append(f"{severity.value}: {kind} ({len(group)})")
            lines.extend(f"    {problem}" for problem in group[:limit])
            if limit is not None and len(group) > limit:
                lines.append(f"    ... and {len(group) - limit} more of this kind")
    return "\n".join(lines)
