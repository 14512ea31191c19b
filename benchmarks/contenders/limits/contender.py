"""The limits: what the machine, the servers and Python allow when no library is in the way.

What belongs here: which row is in which file.
"""

from bench_protocol import main
from caller import round_trip
from consumer import check, publish, worker
from listener import wait
from load import alternate, load
from publisher import backlog, enqueue, fill

if __name__ == "__main__":
    main(
        {
            "enqueue": enqueue,
            "backlog": backlog,
            "round-trip": round_trip,
            "fill": fill,
            "worker": worker,
            "publish": publish,
            "check": check,
            "wait": wait,
            "load": load,
            "alternate": alternate,
        }
    )
