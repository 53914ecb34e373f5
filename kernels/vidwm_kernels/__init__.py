"""The operations that rollouts spend their time in; `kernels/README.md` is the index.

Every operation's folder holds the contract (`__init__.py`) and its meaning in plain PyTorch
(`reference.py`). Knows nothing of `vidwm`.
"""
