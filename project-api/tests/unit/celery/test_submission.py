"""A submission without a key is the producer: it asks nobody, and passes on what it is told.

With one, it needs a Redis; that is tested in tests/integration.
"""

import pytest
from pydantic import SecretStr

from app.celery import workflows
from app.celery.async_celery import create_celery
from app.celery.idempotency import open_idempotency_keys
from app.celery.journal import open_journal
from app.celery.producer import Producer
from app.celery.submission import Submission
from app.core.config import Settings
from app.core.idempotency import Fingerprint
from async_celery import Unsupported
from async_celery.testing import FakeCelery
from project_contracts.integers import INTEGERS_SUM, IntegersSumPayload, PowerPayload


async def test_without_a_key(settings: Settings) -> None:
    # These keys have no server: to ask for one would fail.
    async with FakeCelery() as fake, open_journal(fake) as journal, open_idempotency_keys(settings) as keys:
        celery = create_celery(settings)
        producer = Producer(celery, fake, journal)
        submission = Submission(
            producer=producer, keys=keys, key=None, fingerprint=Fingerprint("POST", "/"), expires=None
        )
        handles = [await submission.send(INTEGERS_SUM, IntegersSumPayload(integers=[1, 2])) for _ in range(2)]
        sent = fake.assert_sent(INTEGERS_SUM.name, kwargs={"integers": [1, 2]}, times=2)
        assert [task.id for task in sent] == [handle.id for handle in handles]
        assert handles[0].id != handles[1].id
        task_id = producer.new_task_id()
        canvas = workflows.power(submission.celery, PowerPayload(integer=2, n=2))
        assert (await submission.send_workflow(canvas, int, task_id=task_id)).id == task_id


@pytest.mark.parametrize("backend", ["cache+memory://", "db+sqlite:///results", "rpc://"])
async def test_results_that_are_not_in_redis(settings: Settings, backend: str) -> None:
    elsewhere = settings.model_copy(update={"result_backend": SecretStr(backend)})
    async with FakeCelery() as fake, open_journal(fake) as journal, open_idempotency_keys(elsewhere) as keys:
        producer = Producer(create_celery(elsewhere), fake, journal)

        def submission(key: str | None) -> Submission:
            return Submission(
                producer=producer, keys=keys, key=key, fingerprint=Fingerprint("POST", "/"), expires=None
            )

        payload = IntegersSumPayload(integers=[1, 2])
        with pytest.raises(Unsupported, match="redis://"):
            await submission("key").send(INTEGERS_SUM, payload)
        await submission(None).send(INTEGERS_SUM, payload)
        fake.assert_sent(INTEGERS_SUM.name, times=1)
