"""What the site's pictures have in common."""

import io

# Fixed ids, or a picture would differ from build to build.
STYLE = {"svg.hashsalt": "keras_moe", "font.size": 9}
COLOURS = ("#3949ab", "#fb8c00", "#00897b", "#8e24aa", "#6d4c41", "#c0ca33")
MODES = {"F": "forward", "FB": "forward and backward"}


def svg(figure, **options) -> str:
    """A figure as text, without the date that it would carry."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, **options)
    return file.getvalue()
