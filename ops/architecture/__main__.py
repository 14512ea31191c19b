"""What `cd ops && python3 -m architecture` runs: draws the picture anew.

What belongs here: the command line. It prints the path that it writes, and one line when it fails.
"""

import sys

from architecture.drawing import PICTURE, DrawingError, draw


def main() -> int:
    """Draw; return the exit code."""
    try:
        PICTURE.write_text(draw())
    except DrawingError as error:
        print(error, file=sys.stderr)
        return 1
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
