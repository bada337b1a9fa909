"""How figures are drawn: one style, one palette, fonts, curves. Nothing here knows networks.

Modules:
    palette: Every colour.
    style: Sizes, axes, colour bars, short names.
    picture: A figure as part of a page and as a file.
    curves: What was measured over the epochs of a run.
    pixels: Images as arrays, under heat maps, as data URIs.
    boxes: Boxes and masks on an image.
    clips: Frames of a clip with what is said of them.
    overlays: Classes of pixels in colours.
    fonts: Fonts for class names in any script.
"""
