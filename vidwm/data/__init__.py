"""Recorded robot episodes: readers, windows and clips. Start at `clip.py`, the contract."""
