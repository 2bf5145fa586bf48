"""Drawn photos whose truth is known, to try everything without data. Must not know the rest of the package."""
