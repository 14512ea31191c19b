"""The revision that the code expects is Alembic's own head."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from app.database.schema import HEAD

ALEMBIC_INI = Path(__file__).parents[3] / "alembic.ini"


def test_the_code_expects_what_alembic_upgrades_to() -> None:
    scripts = ScriptDirectory.from_config(Config(ALEMBIC_INI))
    assert scripts.get_heads() == [HEAD]
    assert all(script.revision.isdigit() and len(script.revision) == 4 for script in scripts.walk_revisions())
