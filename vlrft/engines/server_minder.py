"""Servers given by URL that somebody has started anew in the middle of a rollout: they get the weights again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from vlrft.engines.base import EngineLostError
from vlrft.engines.sync import weights_stamp
from vlrft.engines.vllm_http import ServerRefusalError, VLLMServer

logger = logging.getLogger(__name__)

UNTOUCHED = "default"
"""vLLM's label of weights that nobody has pushed since the server started (0.32)."""
_POLL_S = 1.0


class Minder:
    """While entered, looks for servers without the weights of the last push and has them given.

    Only those with vLLM's own label or an older one of this run: a label of others means another run's server, where
    pushing in turns would never end.
    """

    def __init__(self, servers: Sequence[VLLMServer], run: str, stamp: str, give: Callable[[VLLMServer], None]) -> None:
        """run: what labels of this run begin with. stamp: the label of the last push."""
        self.servers, self.run, self.stamp, self.give = servers, run, stamp, give
        self.failure: Exception | None = None
        """Why a server that is up cannot be given the weights; all requests are then abandoned."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._mind, name="server-minder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises what made it fail; in place of EngineLostError, which is what the requests end with then."""
        self._end.set()
        self._thread.join()
        if self.failure is not None and (error is None or isinstance(error, EngineLostError)):
            raise self.failure

    def _mind(self) -> None:
        while not self._end.wait(_POLL_S):
            for server in self.servers:
                try:
                    self._look(server)
                except EngineLostError as error:  # away again, or not needed any more
                    logger.warning("%s is not given the weights now: %s", server.url, error)
                except Exception as error:  # of a thread: told to the one that waits for the requests
                    self.failure = error
                    for other in self.servers:
                        other.abandon()
                    return

    def _look(self, server: VLLMServer) -> None:
        if not server.is_healthy():
            return
        try:
            label = weights_stamp(server, retries=0)
        except ServerRefusalError:  # a server that is starting
            return
        if label != self.stamp and (label == UNTOUCHED or label.startswith(f"{self.run}-")):
            logger.warning("%s has lost the weights (label %r): they are pushed again", server.url, label)
            self.give(server)
