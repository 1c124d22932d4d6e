"""Who may read and who may write an extent of memory that no hardware keeps coherent.

Rules: every line has one writer at any time; nobody holds dirty lines of a range that it does not
own; only plain 8-byte stores, write-backs, invalidations and fences are used, never an atomic
operation across hosts. `borrow` announces a lease and looks again; `revoke` announces itself and
looks for leases: one of the two always sees the other. Reconstructed from the abstract of arXiv
2606.24079; software coherence after CXL-SHM (SOSP '23) and Tigon (OSDI '25).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ProtocolError
from tidemill.systems.aquifer.cxl.layout import (
    MOST_EPOCH,
    MOST_GENERATION,
    DirectoryEntry,
    Extent,
    FencePhase,
    Layout,
    OwnerWord,
    SlotState,
    lease_word,
)
from tidemill.systems.aquifer.cxl.operations import (
    LINE,
    WORD,
    Fence,
    Get,
    Invalidate,
    IsDead,
    Load,
    Operation,
    Pause,
    Program,
    Put,
    Store,
    WriteBack,
)

MANAGER = 0
"""The host that fences the others and takes over what they owned."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A lease: until its release nobody rewrites the extent.

    Attributes:
        slot: which.
        entry: the directory line; its epoch and extent.
    """

    slot: int
    entry: DirectoryEntry


@dataclass(frozen=True, slots=True)
class Ownership:
    """One host's side of the protocol.

    Attributes:
        layout: of the segment.
        host: which one.
        generation: how many processes this host had, this one included.
    """

    layout: Layout
    host: int
    generation: int = 1

    def attach(self, identity: bytes = b"") -> Program[Ownership]:
        """Take a host's place after its last process; the caller knows that one to be fenced.

        If the manager is taking over that process's slots, this waits until it has.

        Args:
            identity: kept beside the generation, for whoever must end this process.
        """
        at = self.layout.host_at(self.host)
        yield from self._fresh(at, "invalidate-H")
        generation = (yield Load(at)) + 1
        if generation > MOST_GENERATION:
            raise ProtocolError(
                f"host {self.host} has had {generation} processes; make a new pool."
            )
        if identity:
            yield Put(at + WORD, identity, "identity")
        yield Store(at, generation, "generation")
        yield from self._persist(at, LINE, "flush-H")
        fence = self.layout.fence_at(self.host)
        while True:
            yield from self._fresh(fence, "invalidate-F")
            word = yield Load(fence, "read-phase")
            if word != (generation - 1) << 8 | FencePhase.TAKING:
                break
            yield Pause("the manager to take over what this host owned")
        return Ownership(self.layout, self.host, generation)

    def recover(self) -> Program[None]:
        """Void the leases of this host's last process and end what it had begun."""
        for slot in range(self.layout.slots):
            yield Store(self.layout.lease_at(self.host, slot), 0, "void")
        leases = self.layout.lease_at(self.host, 0)
        yield from self._persist(leases, self.layout.slots * LINE, "flush-L")
        yield from self.take_over(self.host)
        if self.host == MANAGER:
            for host in range(1, self.layout.hosts):
                word = yield Load(self.layout.fence_at(host))
                if word & 0xFF == FencePhase.TAKING:
                    yield from self._finish_fencing(host, word >> 8)

    def publish(
        self,
        slot: int,
        extent: Extent,
        data: bytes | memoryview,
        name: str = "",
        *,
        after: int = 0,
    ) -> Program[int]:
        """Write an extent of this host and let all read it; returns the new epoch.

        Args:
            slot: where; free.
            extent: where its data go, unused.
            data: what to publish.
            name: for the directory.
            after: an epoch that the new one must exceed, besides the slot's last.

        Raises:
            ProtocolError: the slot is not this host's, or not free.
        """
        at = self.layout.slot_at(slot)
        entry = yield from self._owned(slot, SlotState.FREE)
        epoch = max(entry.word.epoch, after) + 1
        if epoch > MOST_EPOCH:
            raise ProtocolError(f"slot {slot} has had {MOST_EPOCH} epochs; make a new pool.")
        writing = OwnerWord(entry.word.epoch, self.host, SlotState.WRITING)
        yield Store(at, writing.value, "writing")
        yield from self._persist(at, LINE, "flush-writing")
        yield Put(extent.at, data, "data")
        yield from self._persist(extent.at, len(data), "flush-data")
        published = OwnerWord(epoch, self.host, SlotState.PUBLISHED)
        entry = DirectoryEntry(published, Extent(extent.at, len(data)), name)
        yield Put(at + WORD, entry.pack()[WORD:], "entry")
        yield Store(at, published.value, "published")
        yield from self._persist(at, LINE, "flush-published")
        return epoch

    def borrow(self, slot: int, usage: bytes = b"") -> Program[Borrowed | None]:
        """A lease of what is published; None if nothing is, or if its owner just revoked it.

        Args:
            slot: which.
            usage: kept beside the lease, for the owner's choice of what to evict.
        """
        at, lease = self.layout.slot_at(slot), self.layout.lease_at(self.host, slot)
        yield from self._fresh(at, "invalidate-D1")
        line = yield Get(at, LINE, "look")
        entry = DirectoryEntry.of(line)
        if not entry.is_published:
            return None
        if usage:
            yield Put(lease + WORD, usage, "usage")
        yield Store(lease, lease_word(self.generation, entry.word.epoch), "lease")
        yield from self._persist(lease, LINE, "flush-lease")
        yield from self._fresh(at, "invalidate-D2")
        again = yield Get(at, LINE, "look-again")
        if again != line:
            yield from self.release(slot)
            return None
        yield Invalidate(entry.extent.at, entry.extent.size, "invalidate-data")
        yield Fence("invalidate-data")
        return Borrowed(slot, entry)

    def release(self, slot: int) -> Program[None]:
        """End a lease."""
        lease = self.layout.lease_at(self.host, slot)
        yield Store(lease, 0, "release")
        yield from self._persist(lease, LINE, "flush-release")

    def revoke(self, slot: int) -> Program[DirectoryEntry]:
        """Let nobody borrow any more, and return when nobody reads; the slot is then free.

        Returns what was there. The manager fences a host that died with a lease; another owner
        waits until the manager has.

        Raises:
            ProtocolError: the slot is not this host's, or nothing is published.
        """
        entry = yield from self._owned(slot, SlotState.PUBLISHED, SlotState.REVOKING)
        epoch = entry.word.epoch
        at = self.layout.slot_at(slot)
        yield Store(at, OwnerWord(epoch, self.host, SlotState.REVOKING).value, "revoking")
        yield from self._persist(at, LINE, "flush-revoking")
        for host in range(self.layout.hosts):
            yield from self._until_released(host, slot)
        yield from self._set_free(slot, epoch)
        return entry

    def _until_released(self, host: int, slot: int) -> Program[None]:
        lease = self.layout.lease_at(host, slot)
        while True:
            yield from self._fresh(lease, "invalidate-L")
            word = yield Load(lease, "read-lease")
            if word == 0:
                return
            generation = word >> 40
            is_void = yield from self._is_fenced(host, generation)
            if is_void:
                return
            yield Pause(f"host {host} to release slot {slot}")

    def _is_fenced(self, host: int, generation: int) -> Program[bool]:
        if self.host == MANAGER and host != MANAGER:
            is_dead = yield IsDead(host, generation, "is-dead")
            return is_dead
        fence = self.layout.fence_at(host)
        yield from self._fresh(fence, "invalidate-F")
        word = yield Load(fence, "read-fence")
        return word >> 8 >= generation

    def _set_free(self, slot: int, epoch: int) -> Program[None]:
        at = self.layout.slot_at(slot)
        yield Put(at + WORD, bytes(LINE - WORD), "no-extent")
        yield Store(at, OwnerWord(epoch, self.host, SlotState.FREE).value, "free")
        yield from self._persist(at, LINE, "flush-free")

    def offer(self, at: int, to: int) -> Program[None]:
        """Give a slot or a chunk, by its line, to another host; it may be published or free.

        Raises:
            ProtocolError: it is not this host's, or being written.
        """
        yield from self._fresh(at, "invalidate-D")
        line = yield Get(at, LINE, "look-owned")
        word = DirectoryEntry.of(line).word
        if word.owner != self.host or word.state not in (SlotState.FREE, SlotState.PUBLISHED):
            raise ProtocolError(f"line {at} is {word}; host {self.host} cannot offer it.")
        yield Store(at, OwnerWord(word.epoch, to, SlotState.OFFERED).value, "offered")
        yield from self._persist(at, LINE, "flush-offered")

    def accept(self, at: int) -> Program[bool]:
        """Take what is offered to this host; False if nothing is."""
        yield from self._fresh(at, "invalidate-offer")
        line = yield Get(at, LINE, "look-offer")
        entry = DirectoryEntry.of(line)
        if entry.word.owner != self.host or entry.word.state is not SlotState.OFFERED:
            return False
        yield from self._take(at, entry)
        return True

    def _take(self, at: int, entry: DirectoryEntry) -> Program[None]:
        state = SlotState.PUBLISHED if entry.extent.size else SlotState.FREE
        yield Store(at, OwnerWord(entry.word.epoch, self.host, state).value, "taken")
        yield from self._persist(at, LINE, "flush-taken")

    def fence(self, dead: int) -> Program[bool]:
        """The manager: take over all that a dead host owned; False if it lives or came back.

        Raises:
            ProtocolError: this host is not the manager, or asked to fence itself.
        """
        if self.host != MANAGER or dead == MANAGER:
            raise ProtocolError(f"host {self.host} cannot fence host {dead}; host {MANAGER} does.")
        at, fence = self.layout.host_at(dead), self.layout.fence_at(dead)
        yield from self._fresh(at, "invalidate-H")
        generation = yield Load(at, "read-generation")
        is_dead = yield IsDead(dead, generation, "is-dead")
        if not is_dead:
            return False
        yield Store(fence, generation << 8 | FencePhase.TAKING, "taking")
        yield from self._persist(fence, LINE, "flush-taking")
        done = yield from self._finish_fencing(dead, generation)
        return done

    def _finish_fencing(self, dead: int, generation: int) -> Program[bool]:
        at, fence = self.layout.host_at(dead), self.layout.fence_at(dead)
        yield from self._fresh(at, "invalidate-H2")
        again = yield Load(at, "read-generation-again")
        if again == generation:
            yield from self.take_over(dead)
        phase = FencePhase.TAKEN if again == generation else FencePhase.ABORTED
        yield Store(fence, generation << 8 | phase, "fenced")
        yield from self._persist(fence, LINE, "flush-fenced")
        return again == generation

    def take_over(self, dead: int) -> Program[None]:
        """Own what a fenced host owned: what it published stays, what it was writing is void."""
        for slot in range(self.layout.slots):
            yield from self._take_over_slot(slot, dead)

    def _take_over_slot(self, slot: int, dead: int) -> Program[None]:
        at = self.layout.slot_at(slot)
        yield from self._fresh(at, "invalidate-dead")
        line = yield Get(at, LINE, "look-dead")
        entry = DirectoryEntry.of(line)
        state, epoch = entry.word.state, entry.word.epoch
        if entry.word.owner != dead:
            return
        if state is SlotState.OFFERED:
            yield from self._take(at, entry)
        elif state is SlotState.WRITING:
            yield from self._set_free(slot, epoch + 1)
        elif dead != self.host:  # a slot that is read on while it is revoked stays so
            yield Store(at, OwnerWord(epoch, self.host, state).value, "inherited")
            yield from self._persist(at, LINE, "flush-inherited")

    def abandon(self, slot: int) -> Program[None]:
        """Free a slot of this host that it was writing, if it was."""
        at = self.layout.slot_at(slot)
        line = yield Get(at, LINE, "look-owned")
        word = DirectoryEntry.of(line).word
        if word.owner == self.host and word.state is SlotState.WRITING:
            yield from self._set_free(slot, word.epoch + 1)

    def _owned(self, slot: int, *states: SlotState) -> Program[DirectoryEntry]:
        at = self.layout.slot_at(slot)
        yield from self._fresh(at, "invalidate-owned")
        line = yield Get(at, LINE, "look-owned")
        entry = DirectoryEntry.of(line)
        if entry.word.owner != self.host or entry.word.state not in states:
            allowed = " or ".join(state.name.lower() for state in states)
            raise ProtocolError(
                f"slot {slot} — {entry.word.state.name.lower()}, of host {entry.word.owner}; must "
                f"be {allowed}, of host {self.host}; look again."
            )
        return entry

    def _persist(self, at: int, size: int, label: str) -> Generator[Operation, Any, None]:
        yield WriteBack(at, size, label)
        yield Fence(label)

    def _fresh(self, at: int, label: str) -> Generator[Operation, Any, None]:
        yield Invalidate(at, LINE, label)
        yield Fence(label)
