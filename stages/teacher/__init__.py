"""2D teachers: made, asked on every view, checked and evaluated.

In: a scene's views and queries. Out: masks, tokens and features of each view.
"""
