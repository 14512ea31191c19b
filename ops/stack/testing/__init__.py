"""`./stack test`: lint, types, import rules and every test suite, against servers of its own.

How it works: `plan.py` is the table of suites, `steps.py` runs one step, `servers.py` starts real servers from
the same table as `./stack up` on free ports, `session.py` puts them together and reports.

What belongs here: everything about running tests. The tests themselves lie beside what they test.
"""
