"""Colors that people with any color vision can tell apart, for pictures and curves."""

# Okabe & Ito (2008) without black, then Paul Tol's "muted", which keeps its distance.
SLOTS = tuple(
    "#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 "
    "#F0E442 #882255 #332288 #999933 #117733 #CC6677".split()
)
NOTHING = "#BBBBBB"  # visible pixels of a segmentation, background of a ground truth


def slot(index: int) -> str:
    """Returns the color of a mask slot or object as #RRGGBB; they repeat after twelve."""
    return SLOTS[index % len(SLOTS)]


def rgb(color: str) -> tuple[int, int, int]:
    """Returns #RRGGBB as three bytes."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
