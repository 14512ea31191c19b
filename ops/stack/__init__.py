"""`./stack`: starts, watches, tests and stops the whole system on one machine.

Role: what a newcomer types. One declarative table (`services.py`) says what the system consists of; everything
else is derived from it.

How it works: `cli.py` reads the command line; `lifecycle.py` starts and stops services in the order of their
needs; `supervision.py` drives supervisord, which keeps the processes running; `servers/` knows each program's
command line and configuration; `testing/` runs the tests against servers from the same table.

What belongs here: starting, stopping, looking at and testing the system. No knowledge of the projects' code.
"""
