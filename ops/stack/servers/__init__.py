"""How each program is started natively: its binaries, data folder, configuration, command line.

What belongs here: one module per server, and one for the projects' own programs. Their templates are in `infra/`.
"""
