"""Reads, converts and writes weight files and checkpoints."""
