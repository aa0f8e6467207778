"""Labelled images from files, and what their classes are called."""
