"""How figures are drawn: one style, one palette, fonts, curves. Nothing here knows networks."""
