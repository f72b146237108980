"""Which workload is of this name? As this process read it lately, or as the vault has it now.

A name is looked up with every request that gives one. What was read under the configuration by which the asker is remembered is
good for as long as they are: the unit of work that serves confirms both, or both are looked up anew (`domain/standing.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from mcp_identity.domain.standing import standing

if TYPE_CHECKING:
    from mcp_identity.broker.workloads import Workloads
    from mcp_identity.domain.identity import WorkloadIdentity

MOST_KNOWN = 4096


class KnownWorkloads:
    """The workloads that were named lately."""

    def __init__(self, workloads: Workloads) -> None:
        """None is known yet.

        Args:
            workloads: Looks them up.
        """
        self._workloads = workloads
        self._known: OrderedDict[tuple[str, str], tuple[WorkloadIdentity, int]] = OrderedDict()

    async def find(self, tenant: str, name: str) -> WorkloadIdentity | None:
        """A workload by its name; to be confirmed before anything leaves, as the asker is."""
        known, remembered = self._known.get((tenant, name)), standing.get()
        if known is not None and remembered is not None and not remembered.is_confirmed and known[1] == remembered.epoch:
            return known[0]
        found, epoch = await self._workloads.find(tenant, name)
        if found is not None:
            self._known[tenant, name] = found, epoch
            self._known.move_to_end((tenant, name))
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return found
