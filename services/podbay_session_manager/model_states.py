"""Follows the models that replicas wait for: asks the registry until their files are there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from podbay_kit.clock import Clock
from podbay_session_manager.model_gate import ModelState, Stand

__all__ = ["ModelStates"]

_LOG = logging.getLogger(__name__)
_AGAIN_SECONDS: Final = 1.0
_AT_ONCE: Final = 8
# So long one pass waits for the first answers, so that what is there starts in the same pass.
_PATIENCE_SECONDS: Final = 0.25

_ASKED: Final = ModelState(Stand.ASKED)
_AWAY: Final = ModelState(Stand.OPEN)


class ModelStates:
    """Knows where models stand.

    Args:
        ask: Asks the registry for the state of a model; raises OSError where it is away.
        clock: Where the time comes from.
        on_news: Called when a model stands elsewhere than before.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[ModelState]],
        clock: Clock,
        on_news: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._on_news = on_news
        self._states: dict[str, ModelState] = {}
        self._next_ask: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def of(self, models: frozenset[str]) -> Mapping[str, ModelState]:
        """Return what is known of models; of those that are not followed yet, that they will be."""
        return {model: self._states.get(model, _ASKED) for model in models}

    async def follow(self, models: frozenset[str]) -> None:
        """Ask for these models and no others, where that was not done lately.

        Waits a little for those that were never asked for. Where the registry is away nothing keeps
        a replica back: the files may be on the node already.
        """
        for model in self._states.keys() - models:
            del self._states[model]
            self._next_ask.pop(model, None)
        now = self._clock.monotonic()
        first: list[asyncio.Task[None]] = []
        for model in models:
            if model in self._asking or now < self._next_ask.get(model, float("-inf")):
                continue
            task = asyncio.get_running_loop().create_task(self._look(model), name=f"model-{model}")
            self._asking[model] = task
            if model not in self._states:
                self._states[model] = _ASKED
                first.append(task)
        if first:
            await asyncio.wait(first, timeout=_PATIENCE_SECONDS)

    async def close(self) -> None:
        """Stop asking."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _look(self, model: str) -> None:
        try:
            async with self._slots:
                state = await self._ask(model)
        except OSError as error:
            _LOG.info("where the model %s stands is not known now: %s", model, error)
            state = _AWAY
        except Exception:  # noqa: BLE001 # logged; asked again
            _LOG.exception("the registry could not be asked for the model %s", model)
            state = _AWAY
        finally:
            self._asking.pop(model, None)
        known = self._states.get(model)
        if known is None:
            # Nobody waits for it any more.
            return
        self._next_ask[model] = self._clock.monotonic() + _AGAIN_SECONDS
        if known != state:
            self._states[model] = state
            self._on_news()
