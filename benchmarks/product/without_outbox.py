"""project-api whose outbox takes nothing: the same writes without the message, for the row `outbox`.

How it works: `uvicorn without_outbox:app` in the project's folder and environment, with this one on the path.

What belongs here: that application.
"""

from api import app as app

from app.database.outbox import Outbox


async def _add(*_: object) -> None:
    """Leave the transaction as it is."""


Outbox.add = _add  # type: ignore[method-assign]  # that it is another one is the point
