"""Tensors and strings in, tensors and strings out: teachers and student."""
