"""Data sets that need no download: handwritten digits, scenes of digits, moving digits."""
