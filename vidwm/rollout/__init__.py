"""Imagined futures: contexts and actions in, groups of sampled token frames out."""
