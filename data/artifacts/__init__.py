"""Artifacts: one schema module each over one store.

In: values that stages computed. Out: folders with a fingerprint, whose ``metadata.json`` is
written last, and the same values read again, on disk or in an object store.
"""
