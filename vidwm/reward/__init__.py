"""Verifiable rewards: how close a predicted frame is to what really happened."""
