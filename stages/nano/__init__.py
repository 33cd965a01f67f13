"""Stages that train LISA-nano, the small teacher that ships with the project.

In: procedural rooms. Out: a checkpoint folder with its evaluation and its model card.
"""
