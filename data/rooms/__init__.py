"""Procedural rooms: geometry, furniture, rendering and queries of the demo."""
