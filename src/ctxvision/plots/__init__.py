"""The drawing of figures: one style, one palette, fonts, curves. No module here depends on networks.

Modules:
    palette: All colours.
    style: Sizes, axes, colour bars and short names.
    picture: Figures as parts of a page and as files.
    curves: Curves of measurements over the epochs of a run.
    pixels: Images as arrays, under heat maps and as data URIs.
    boxes: Boxes and masks on an image.
    clips: Frames of a clip with the answers of a network.
    overlays: Classes of pixels in colours.
    fonts: Fonts for class names in any script.
"""
