"""The checks of `flowar doctor`, a function per line of its report.

No module here imports at its top what may be broken.
"""
