"""`./stack bench`: our library beside every peer, as ratios inside one run on this machine.

How it works: `rows/` has a module per row of the tables in benchmarks/RESULTS.md, each a list of turns that are
interleaved over the rounds; `contenders.py` runs a contender (benchmarks/contenders/NAME) in its own environment;
`broker.py` and `store.py` look into RabbitMQ and Redis from outside, to check what a contender claims; `goals.py`
is the goal table, `report.py` writes what came out, `session.py` puts it together.

What belongs here: everything about running benchmarks. What is measured lies in benchmarks/.
"""
