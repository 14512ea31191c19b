"""SQL functions and extensions that the tables' indexes and generated columns are made of.

How it works: `install` runs before the tables are created, in `create_all` (`tables.py`) as in the first
migration, so a test's schema is the real one. An index needs functions that are IMMUTABLE, which `unaccent(text)`
is not, as it looks its dictionary up in the search path: it is named here, with its schema. All extensions are
trusted: the owner of a database may create them, a superuser need not.

What belongs here: what SQL has to compute the same way everywhere. Queries call these by name.
"""

from sqlalchemy import Connection

EXTENSIONS = ("pg_trgm", "unaccent", "cube")

FUNCTIONS = {
    "search_form(text)": """
        CREATE OR REPLACE FUNCTION public.search_form(value text) RETURNS text
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
        RETURN lower(public.unaccent('public.unaccent'::regdictionary, value))
    """,
    "search_forms(text[])": """
        CREATE OR REPLACE FUNCTION public.search_forms("values" text[]) RETURNS text[]
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
        RETURN ARRAY(SELECT public.search_form(value) FROM unnest("values") AS value)
    """,
    "unit_sphere(double precision, double precision)": """
        CREATE OR REPLACE FUNCTION public.unit_sphere(latitude double precision, longitude double precision)
        RETURNS public.cube
        LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
        RETURN public.cube(ARRAY[
            cosd(latitude) * cosd(longitude), cosd(latitude) * sind(longitude), sind(latitude)
        ])
    """,
}
"""What makes each function, by its signature."""


def install(connection: Connection) -> None:
    """Make extensions and functions; what is there stays."""
    for extension in EXTENSIONS:
        connection.exec_driver_sql(f"CREATE EXTENSION IF NOT EXISTS {extension} WITH SCHEMA public")
    for definition in FUNCTIONS.values():
        connection.exec_driver_sql(definition)


def remove(connection: Connection) -> None:
    """Drop functions and extensions, once nothing uses them."""
    for signature in reversed(FUNCTIONS):
        connection.exec_driver_sql(f"DROP FUNCTION public.{signature}")
    for extension in reversed(EXTENSIONS):
        connection.exec_driver_sql(f"DROP EXTENSION {extension}")
