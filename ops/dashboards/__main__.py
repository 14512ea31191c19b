"""What `./stack dashboards` runs: `python -m dashboards write FOLDER`, or `draw SOURCE URL FOLDER SECONDS`.

What belongs here: the command line. It prints each file's path as it is written, and one line when it fails.
"""

import sys
import time
from pathlib import Path

from dashboards import files, pictures
from dashboards.prometheus import PrometheusError, Span


def main(words: list[str]) -> int:
    """Write or draw; return the exit code."""
    match words:
        case ["write", folder]:
            for path in files.write(Path(folder)):
                print(path)
        case ["draw", source, url, folder, seconds]:
            span = Span(end=time.time(), seconds=int(seconds))
            try:
                for path in pictures.draw_all(Path(source), url, Path(folder), span):
                    print(path, flush=True)
            except PrometheusError as error:
                print(error, file=sys.stderr)
                return 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
