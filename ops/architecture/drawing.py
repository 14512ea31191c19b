"""From text to picture: what `dot` draws, with our letters and colours, and a stamp of what it was drawn from.

What belongs here: making the SVG. What it shows is in `picture.dot` and `picture.css`.
"""

import hashlib
import re
import subprocess
from pathlib import Path

SOURCES = tuple(Path(__file__).parent / name for name in ("picture.dot", "picture.css"))
"""What is drawn, and how it looks."""

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "architecture.svg"


class DrawingError(Exception):
    """Nothing was drawn; the message says why."""


def stamp() -> str:
    """Return what tells from which texts a picture was drawn: changed texts have another one."""
    digest = hashlib.sha256()
    for path in SOURCES:
        digest.update(path.read_bytes())
    return f"drawn from ops/architecture, sha256 {digest.hexdigest()}"


def draw() -> str:
    """Return the picture, as SVG.

    Raises:
        DrawingError: There is no `dot`, or it does not understand the text.
    """
    text, style = (path.read_text() for path in SOURCES)
    try:
        drawn = subprocess.run(
            ["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except FileNotFoundError as error:
        raise DrawingError("there is no dot here: apt-get install graphviz") from error
    except subprocess.CalledProcessError as error:
        raise DrawingError(f"dot: {error.stderr.strip()}") from error
    # What stands before the first group says which dot it was, and its size in points, which browsers enlarge.
    size = re.search(r'viewBox="0\.00 0\.00 ([\d.]+) ([\d.]+)"', drawn)
    if size is None:
        raise DrawingError("dot wrote another kind of SVG than was expected: no viewBox")
    width, height = (round(float(number)) for number in size.groups())
    head = (
        f"<!-- {stamp()} -->\n"
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-label="The services, and who calls whom">\n'
        f"<style>\n{style}</style>\n"
    )
    return head + drawn[drawn.index("<g ") :]
