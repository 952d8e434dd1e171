"""COCO evaluation, its analysis, and the pages and pictures that show it."""

from .analysis import inference_folder
from .evaluator import AnalysingCOCOEvaluator
from .report.build import build_report
from .report.comparison import build_comparison
from .report.draw import draw_comparison, save_run_image
from .report.rebuild import has_analysis, rebuild_analysis
from .report.run_info import write_run_info

__all__ = [
    "AnalysingCOCOEvaluator",
    "build_comparison",
    "build_report",
    "draw_comparison",
    "has_analysis",
    "inference_folder",
    "rebuild_analysis",
    "save_run_image",
    "write_run_info",
]
