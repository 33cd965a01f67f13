"""Artifacts: one schema module each over one store."""
