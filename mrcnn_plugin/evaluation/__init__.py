"""COCO evaluation, its analysis, and the pages and pictures that show it."""

from .analysis import inference_folder
from .coco import MendingCOCOEvaluator
from .draw import draw_comparison, draw_curves, save_report
from .report import build_report
from .run_info import write_run_info

__all__ = [
    "MendingCOCOEvaluator",
    "build_report",
    "draw_comparison",
    "draw_curves",
    "inference_folder",
    "save_report",
    "write_run_info",
]
