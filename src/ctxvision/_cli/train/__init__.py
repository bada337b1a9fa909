"""``ctxvision train``."""
