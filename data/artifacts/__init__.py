"""Store what stages compute: one store, and one schema module for each kind of artifact.

In: values that stages computed. Out: folders named by a fingerprint, on disk or in an object
store, whose ``metadata.json`` is written last, and the same values read back.
"""
