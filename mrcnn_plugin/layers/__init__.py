"""The native ops and their modules. This folder imports PyTorch only.

`roi_align` and `multiscale_roi_align` are modules here; the package exports their functions.
"""
