from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.outbox import Outbox
from project_contracts.invoices import INVOICE_TOTAL


async def test_signed_pickle_does_not_wait_in_the_outbox() -> None:
    nobody = cast(AsyncSession, None)
    with pytest.raises(ValueError, match="the outbox keeps JSON, its arguments travel otherwise; send it"):
        await Outbox(nobody).add("an id", INVOICE_TOTAL, cast(Any, None))
