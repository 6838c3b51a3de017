"""Which replicas a controller believes to live, and what it does not conclude before it can know."""

from __future__ import annotations

from raymlops.rollout.decisions import View
from raymlops.rollout.presence import GRACE_SECONDS, Presence


def asked(presence: Presence, name: str, now: float, build: str = "b", loaded: tuple[str, ...] = ()) -> str:
    return presence.asked({"id": name, "build": build}, [1, 1], list(loaded), now)


def test_a_replica_lives_while_it_asks_and_a_while_after() -> None:
    presence = Presence()
    asked(presence, "a", 0.0)
    assert [replica.id for replica in presence.live(100.0)] == ["a"]
    presence.answered("a", 100.0)
    assert presence.live(100.0 + GRACE_SECONDS) and not presence.live(100.1 + GRACE_SECONDS)


def test_who_listens_since_a_moment_concludes_nothing_about_all_replicas() -> None:
    """A controller that starts anew hears of one replica before the other, which may lack the model."""
    presence = Presence()
    assert not presence.complete(5.0)
    asked(presence, "first", 5.0, loaded=("model",))

    def view(now: float) -> View:
        return View(presence.live(now), settled_s=presence.settled_s(now), complete=presence.complete(now))

    assert not view(5.1).loaded("model") and not view(5.1).follow((1, 1))
    asked(presence, "second", 6.0)
    assert not view(5.0 + GRACE_SECONDS).loaded("model") and view(5.0 + GRACE_SECONDS).follow((1, 1))
    asked(presence, "second", 8.0, loaded=("model",))
    assert view(8.0).loaded("model")
