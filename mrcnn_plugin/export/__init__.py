"""Writes trained models to files that run without this package's Python: pt2, AOTInductor, ONNX."""
