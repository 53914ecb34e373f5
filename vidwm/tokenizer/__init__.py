"""Frames to discrete tokens and back."""
