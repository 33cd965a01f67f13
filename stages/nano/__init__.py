"""Stages that train LISA-nano, the small teacher that ships with the project."""
