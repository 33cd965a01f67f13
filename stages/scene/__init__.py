"""From a scan to a prepared scene: geometry, views, checks, links of points to pixels.

In: a scan as read, or a seed of rooms. Out: scenes, links and images of views.
"""
