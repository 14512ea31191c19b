"""`./stack doctor`: would `up` work here, and if not, what is to be done?

How it works: `checks.py` is the table; each check is a small function that looks at one thing and returns a
finding, a line and the fix. `machine.py`, `parts.py` and `state.py` hold the functions: the machine, what the
services need of it, what earlier runs have left. Each check runs by itself: one that fails is a finding too.

What belongs here: looking. Nothing here changes anything, so it can be run at any time and by anybody.
"""
