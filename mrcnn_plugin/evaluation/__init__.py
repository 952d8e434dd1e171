"""COCO evaluation and pictures of what was predicted."""

from .coco import MendingCOCOEvaluator
from .draw import draw_comparison, draw_curves, save_report

__all__ = ["MendingCOCOEvaluator", "draw_comparison", "draw_curves", "save_report"]
