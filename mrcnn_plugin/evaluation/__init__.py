"""COCO evaluation, its analysis, and the report that shows both."""

from .analysis import has_analysis, inference_folder
from .evaluator import AnalysingCOCOEvaluator
from .rebuild import rebuild_analysis
from .report.build import build_report
from .report.comparison import build_comparison
from .report.draw import draw_comparison
from .report.run_image import draw_run, save_run_image
from .report.run_info import write_run_info

__all__ = [
    "AnalysingCOCOEvaluator",
    "build_comparison",
    "build_report",
    "draw_comparison",
    "draw_run",
    "has_analysis",
    "inference_folder",
    "rebuild_analysis",
    "save_run_image",
    "write_run_info",
]
