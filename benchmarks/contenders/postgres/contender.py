"""PostgreSQL without our code: a bare FastAPI application on it, and the rows that psql copies into it.

What belongs here: which row is in which file.
"""

from api import serve
from bench_protocol import main
from geonames import write

if __name__ == "__main__":
    main({"http": serve, "geonames": write})
