"""Folder of photos -> manifest, split, cached pixels. Must not know models, training or metrics."""
