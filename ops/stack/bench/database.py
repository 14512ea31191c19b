"""PostgreSQL seen from outside: databases are made, filled and looked into here, with psql.

How it works: the schema is made once, by the project's own migrations, in a database of which every row takes a
copy: its indexes and constraints are those of the product.

What belongs here: what the rows ask of PostgreSQL.
"""

import subprocess
from dataclasses import replace
from threading import Event

from stack.bench.contenders import ContenderError, inherited
from stack.instance import Instance
from stack.servers import postgres, projects

_TIMEOUT = 600.0  # s; a million rows and their indexes
_MIGRATED = "bench_migrated"


class Database:
    """What the harness does as PostgreSQL's administrator.

    Attributes:
        version: the server's.
    """

    def __init__(self, product: Instance) -> None:
        """Find psql.

        Args:
            product: Addresses and password of the server, and the environments that migrations run in.
        """
        program = postgres.find()
        if program is None:
            raise AssertionError("the servers have been started")
        self._psql = program.with_name("psql")
        self._product = product
        self.version = self.ask("SHOW server_version", "postgres").partition(" ")[0]

    def make(self, name: str) -> str:
        """Make a database with the product's schema and no rows, in the place of one of that name.

        Raises:
            StackError: A migration failed.
        """
        if _MIGRATED not in self.ask("SELECT datname FROM pg_database", "postgres").splitlines():
            self.ask(f"CREATE DATABASE {_MIGRATED}", "postgres")
            projects.migrate(self.product(_MIGRATED), Event())
        self.ask(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", "postgres")
        self.ask(f"CREATE DATABASE {name} TEMPLATE {_MIGRATED}", "postgres")
        return name

    def product(self, name: str) -> Instance:
        """Return the settings with which the projects use this database."""
        return replace(self._product, values={**self._product.values, "POSTGRES_DB": name})

    def url(self, name: str) -> str:
        """Return the address of a database, password included."""
        values = self._product.values
        login = f"{values['POSTGRES_USER']}:{values['POSTGRES_PASSWORD']}"
        return f"postgresql://{login}@{values['POSTGRES_HOST']}:{values['POSTGRES_PORT']}/{name}"

    def ask(self, sql: str, name: str) -> str:
        """Run SQL or psql's own commands in a database, each statement by itself; return what is printed.

        Raises:
            ContenderError: PostgreSQL refused a statement.
        """
        words = [str(self._psql), "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]
        words += ["--set=ON_ERROR_STOP=1", "--file=-", f"--dbname={name}"]
        values = self._product.values
        environ = {
            **inherited(),
            "PGHOST": values["POSTGRES_HOST"],
            "PGPORT": values["POSTGRES_PORT"],
            "PGUSER": values["POSTGRES_USER"],
            "PGPASSWORD": values["POSTGRES_PASSWORD"],
        }
        done = subprocess.run(
            words, input=sql, env=environ, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode:
            raise ContenderError(f"PostgreSQL: {' '.join(done.stderr.split())}")
        return done.stdout.strip()
