"""Hugging Face: released checkpoints in (`released.py`), world models out (`export.py`)."""
