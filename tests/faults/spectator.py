"""Tabs that are left alone: each follows its threads on a thread of its own, and comes back when it is cut off."""

import json
import queue
import threading
import time
from random import Random

from websockets.exceptions import WebSocketException

from tests.houses import Person
from tests.socket_client import PATIENCE, Recorder, Refused

OWED_AT_MOST = 100  # events before they are acknowledged; one by one they would be a flood
LISTENS_FOR = 0.1  # seconds without a frame before it looks whether something else is to be done
COMES_BACK_AFTER = (0.05, 0.4)  # seconds; at random, so that not all come at once


class Tab(Recorder):
    """Records like any recorder, acknowledges many events at once, and notes when each came."""

    def __init__(self, person: Person) -> None:
        super().__init__(person.url, cookie=person.cookie)
        self.came_at: dict[tuple[str, int], float] = {}  # thread and number -> Unix time
        self._owed: dict[str, int] = {}
        self._count = 0

    def receive(self, timeout: float = PATIENCE) -> dict:
        assert self.socket is not None
        frame = json.loads(self.socket.recv(timeout))
        if "seq" not in frame:
            self.frames.append(frame)
            return frame
        self.came_at.setdefault((frame["thread"], frame["seq"]), time.time())
        self.events[frame["thread"]].append(frame)
        self._owed[frame["thread"]] = frame["seq"]
        self._count += 1
        if self._count >= OWED_AT_MOST:
            for thread, seq in self._owed.items():
                self.send({"type": "ack", "thread": thread, "seq": seq})
            self._owed, self._count = {}, 0
        return frame


class Spectator:
    """Somebody's tab that watches; a restless one reloads at random moments."""

    def __init__(self, person: Person, *, random: Random, restless: bool = False) -> None:
        self.person, self.restless = person, restless
        self.tab = Tab(person)
        self.lost = 0  # sockets
        self._random = random
        self._wanted: queue.Queue[str] = queue.Queue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"tab of {person.email}", daemon=True)
        self._thread.start()

    def follow(self, thread: str) -> None:
        """Watch a thread, too, from its first event on."""
        self._wanted.put(thread)

    def numbers(self, thread: str) -> int:
        """How many events of a thread it has seen."""
        return len(self.tab.events.get(thread, ()))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self.tab.close()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                if self.tab.socket is None:
                    self.tab.open()
                self._look()
            except (WebSocketException, OSError, Refused):
                # Cut off, or the house cannot answer at this moment: as a browser, come back.
                self.lost += 1
                self.tab.close()
                self._stopped.wait(self._random.uniform(*COMES_BACK_AFTER))

    def _look(self) -> None:
        while not self._wanted.empty():
            self.tab.subscribe(self._wanted.get())  # should it fail, coming back subscribes again
        if self.restless and self._random.random() < 0.02:
            self.tab.open()
        try:
            self.tab.receive(LISTENS_FOR)
        except TimeoutError:
            return  # nothing was said
