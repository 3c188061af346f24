"""Kafka behind the face all engines share."""

from __future__ import annotations

from typing import Any

from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.kafka.client import Thread, explain, library, options
from neolayer.engines.probe import probe


class KafkaEngine:
    """One cluster."""

    def __init__(self, endpoint: KafkaEndpoint) -> None:
        self._endpoint = endpoint
        self._admin: Any = None
        self._thread: Thread | None = None
        self._version = ""

    @property
    def name(self) -> str:
        return "kafka"

    async def open(self) -> None:
        if self._admin is not None:
            return
        kafka = library()
        from confluent_kafka.admin import AdminClient

        self._thread = Thread("engine")
        try:
            self._admin = AdminClient(options(self._endpoint))
            await self._look()
        except kafka.KafkaException as exc:
            await self.close()
            raise explain(exc, self._endpoint) from exc

    async def _look(self) -> None:
        assert self._thread is not None
        thread, admin = self._thread, self._admin
        seen = await thread.run(lambda: thread.patiently(lambda s: admin.list_topics(timeout=s)))
        brokers = len(seen.brokers)
        self._version = f"{brokers} broker{'s' if brokers != 1 else ''}"

    async def close(self) -> None:
        self._admin = None
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    async def ping(self) -> None:
        await self.open()
        try:
            await self._look()
        except library().KafkaException as exc:
            await self.close()
            raise explain(exc, self._endpoint) from exc

    async def version(self) -> str:
        """How many brokers there are: the protocol does not tell their version."""
        await self.open()
        return self._version

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
