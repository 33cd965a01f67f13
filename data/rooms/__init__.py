"""Generate the demo's rooms procedurally: geometry, furniture, rendering and queries.

In: a seed. Out: rooms written as a ScanNet++ dataset, and labelled pictures of rooms.
"""
