"""project-api: the HTTP side of the stack. Start reading at `main.py`.

Who may import whom (checked by import-linter): `main` > `api` > `celery` | `database` > `core`.
"""
