"""Training: one loop (`loop.fit`), and the stages it runs: tokenizer, pretrain, grpo.

Read `loop.py` first (what a stage must offer), then `updater.py` (how its losses become weight
updates); `checkpoint.py`, `run_folder.py` and `tracker.py` are what a run leaves on disk.
"""
