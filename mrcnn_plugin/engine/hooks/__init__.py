"""Hooks of the trainer, one per file, and the writer for Weights & Biases."""
