"""The stack in containers: the same commands, done by Docker Compose and the clone's compose.yaml.

    compose.py      the only code that runs Compose: which one, how it is called, what it answers
    engine.py       what Docker itself says of the machine that the containers run on
    model.py        what compose.yaml declares, with this machine's settings
    containers.py   what runs now, and in which of a few words that is said
    memory.py       what the stack was started with: later commands mean the same one
    host_ports.py   whether the ports of this machine are free that lead to containers
    troubles.py     what services and Compose are known to say when they fail, and what to do then
    waiting.py      runs Compose and shows a line per service, until all are well
    logs.py         the containers' lines
    links.py        what there is to open
    stack.py        the commands of ./stack, put together from the rest

What belongs here: everything that is different with Docker, but for ./stack doctor (`doctor/docker.py`).
No service is declared here: compose.yaml does that.
"""
