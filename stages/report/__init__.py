"""Pages and pictures of results.

In: metrics, scenes and masks. Out: self-contained HTML pages, images and animations.
"""
