"""The first schema: countries, cities, their statistics, imports, outbox, inbox, idempotency keys.

What indexes and generated columns are made of comes first: extensions, which are trusted (the database's owner
may create them), and functions.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

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


def upgrade() -> None:
    """Make it."""
    for extension in EXTENSIONS:
        op.execute(f"CREATE EXTENSION IF NOT EXISTS {extension} WITH SCHEMA public")
    for definition in FUNCTIONS.values():
        op.execute(definition)
    op.create_table(
        "countries",
        sa.Column("geonameid", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("code", sa.CHAR(length=2), nullable=False),
        sa.Column("code3", sa.CHAR(length=3), nullable=False),
        sa.Column("numeric_code", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("capital", sa.String(length=250), nullable=True),
        sa.Column("continent", sa.CHAR(length=2), nullable=False),
        sa.Column("population", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("area_km2", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("currency_code", sa.String(length=3), nullable=True),
        sa.Column("currency_name", sa.String(length=50), nullable=True),
        sa.Column("phone", sa.String(length=20), nullable=True),
        sa.Column("tld", sa.String(length=10), nullable=True),
        sa.Column(
            "languages", postgresql.ARRAY(sa.String(length=20)), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column(
            "neighbours", postgresql.ARRAY(sa.CHAR(length=2)), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("search_name", sa.Text(), sa.Computed("search_form(name)", persisted=True), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "continent IN ('AF','AN','AS','EU','NA','OC','SA')", name=op.f("ck_countries_continent")
        ),
        sa.CheckConstraint("area_km2 >= 0", name=op.f("ck_countries_area_km2")),
        sa.CheckConstraint("geonameid > 0", name=op.f("ck_countries_geonameid")),
        sa.CheckConstraint("population >= 0", name=op.f("ck_countries_population")),
        sa.PrimaryKeyConstraint("geonameid", name=op.f("pk_countries")),
        sa.UniqueConstraint("code", name=op.f("uq_countries_code")),
        sa.UniqueConstraint("code3", name=op.f("uq_countries_code3")),
    )
    op.create_index(
        op.f("ix_countries_continent_geonameid"), "countries", ["continent", "geonameid"], unique=False
    )
    op.create_index(op.f("ix_countries_name_geonameid"), "countries", ["name", "geonameid"], unique=False)
    op.create_index(
        op.f("ix_countries_population_geonameid"), "countries", ["population", "geonameid"], unique=False
    )
    op.create_index(
        "ix_countries_search_name",
        "countries",
        ["search_name"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"search_name": "gin_trgm_ops"},
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "import_rows",
        sa.Column("import_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("key", sa.BigInteger(), nullable=True),
        sa.Column("fields", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("import_id", "position", name=op.f("pk_import_rows")),
    )
    op.create_index(
        op.f("ix_import_rows_key_import_id_position"),
        "import_rows",
        ["key", "import_id", "position"],
        unique=False,
    )
    op.create_index(
        "ix_import_rows_rejected",
        "import_rows",
        ["import_id", "position"],
        unique=False,
        postgresql_where=sa.text("error IS NOT NULL"),
    )
    op.create_table(
        "imports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("columns", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("staged", sa.Integer(), nullable=True),
        sa.Column("rejected", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("countries", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("source IN ('geonames','upload')", name=op.f("ck_imports_source")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index(op.f("ix_imports_created_at"), "imports", ["created_at"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_inbox")),
    )
    op.create_index(op.f("ix_inbox_created_at"), "inbox", ["created_at"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("kwargs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "headers", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_outbox")),
        sa.UniqueConstraint("id", name=op.f("uq_outbox_id")),
    )
    op.create_table(
        "cities",
        sa.Column("geonameid", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column(
            "alternate_names",
            postgresql.ARRAY(sa.String(length=250)),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("country_code", sa.CHAR(length=2), nullable=False),
        sa.Column("admin1_code", sa.String(length=20), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=False),
        sa.Column("longitude", sa.Double(), nullable=False),
        sa.Column("population", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("timezone", sa.String(length=50), nullable=False),
        sa.Column("search_name", sa.Text(), sa.Computed("search_form(name)", persisted=True), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("geonameid > 0", name=op.f("ck_cities_geonameid")),
        sa.CheckConstraint("latitude BETWEEN -90 AND 90", name=op.f("ck_cities_latitude")),
        sa.CheckConstraint("longitude BETWEEN -180 AND 180", name=op.f("ck_cities_longitude")),
        sa.CheckConstraint("population >= 0", name=op.f("ck_cities_population")),
        sa.ForeignKeyConstraint(
            ["country_code"], ["countries.code"], name=op.f("fk_cities_country_code"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("geonameid", name=op.f("pk_cities")),
    )
    op.create_index(
        op.f("ix_cities_country_code_geonameid"), "cities", ["country_code", "geonameid"], unique=False
    )
    op.create_index(
        op.f("ix_cities_country_code_name_geonameid"),
        "cities",
        ["country_code", "name", "geonameid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_cities_country_code_population_geonameid"),
        "cities",
        ["country_code", "population", "geonameid"],
        unique=False,
    )
    op.create_index(op.f("ix_cities_name_geonameid"), "cities", ["name", "geonameid"], unique=False)
    op.create_index(op.f("ix_cities_population_geonameid"), "cities", ["population", "geonameid"], unique=False)
    op.create_index(
        "ix_cities_position",
        "cities",
        [sa.literal_column("unit_sphere(latitude, longitude)")],
        unique=False,
        postgresql_using="gist",
    )
    op.create_index(
        "ix_cities_search_alternates",
        "cities",
        [sa.literal_column("search_forms(alternate_names)")],
        unique=False,
        postgresql_using="gin",
    )
    op.create_index(
        "ix_cities_search_name",
        "cities",
        ["search_name"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"search_name": "gin_trgm_ops"},
    )
    op.create_index(op.f("ix_cities_timezone_geonameid"), "cities", ["timezone", "geonameid"], unique=False)
    op.create_index(
        op.f("ix_cities_timezone_name_geonameid"), "cities", ["timezone", "name", "geonameid"], unique=False
    )
    op.create_index(
        op.f("ix_cities_timezone_population_geonameid"),
        "cities",
        ["timezone", "population", "geonameid"],
        unique=False,
    )
    op.create_table(
        "import_parts",
        sa.Column("import_id", sa.Uuid(), nullable=False),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.Column("read", sa.Integer(), nullable=False),
        sa.Column("inserted", sa.Integer(), nullable=False),
        sa.Column("updated", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["import_id"], ["imports.id"], name=op.f("fk_import_parts_import_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("import_id", "part", name=op.f("pk_import_parts")),
    )
    op.create_table(
        "country_statistics",
        sa.Column("country_code", sa.CHAR(length=2), nullable=False),
        sa.Column("cities", sa.Integer(), nullable=False),
        sa.Column("population", sa.BigInteger(), nullable=False),
        sa.Column("largest_city", sa.Integer(), nullable=True),
        sa.Column("refreshes", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["country_code"],
            ["countries.code"],
            name=op.f("fk_country_statistics_country_code"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["largest_city"],
            ["cities.geonameid"],
            name=op.f("fk_country_statistics_largest_city"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("country_code", name=op.f("pk_country_statistics")),
    )
    op.create_index(
        op.f("ix_country_statistics_largest_city"), "country_statistics", ["largest_city"], unique=False
    )


def downgrade() -> None:
    """Drop it, with everything in it."""
    op.drop_table("country_statistics")
    op.drop_table("import_parts")
    op.drop_table("cities")
    op.drop_table("outbox")
    op.drop_table("inbox")
    op.drop_table("imports")
    op.drop_table("import_rows")
    op.drop_table("idempotency_keys")
    op.drop_table("countries")
    for signature in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION public.{signature}")
    for extension in reversed(EXTENSIONS):
        op.execute(f"DROP EXTENSION {extension}")
