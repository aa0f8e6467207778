"""Weights in files, in folders and on the Hub."""
