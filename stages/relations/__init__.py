"""Sentences that relate things to each other: parse them, and choose among instances."""
