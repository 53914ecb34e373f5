"""How good the predictions are, and how they look."""
