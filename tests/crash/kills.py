"""What becomes of a vault whose server is killed at one point? One kill, the next server, and everything that must hold.

The expectation comes from the two books that outlive the server: what the vault holds, and what the authorization server
gave and got back. What a point must lead to is checked beside it, so that a point that is not where it seems is noticed.

    I1  no committed credential is lost          I5  service is normal within ten seconds, with nobody's help
    I3  no token reaches another grant           I6  errors are stable codes, `retryable` where they say so
    I4  every consent ends in its time           I7  the trail verifies
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mcp_identity.domain.credentials import Grant, GrantState, Reason
from tests.crash import points
from tests.crash.caller import Gone, Landing, Refused
from tests.crash.ledger import MODES, Kill, Stage
from tests.crash.looking import OPEN_STATES, Snapshot
from tests.crash.world import NORMAL_SECONDS, OWN, World

KILLED = -9
BEYOND_EVERY_CONSENT = (10 * 60 + 60 + 1) / 3600
"""Hours after which every consent of before must have ended."""
GRANT_TYPES = {"callback": "authorization_code", "refresh": "refresh_token", "m2m": "client_credentials"}
_STORED = frozenset({"store.commit.after", "finished", "before_303", "obtained", "serve.commit.before", "serve.commit.after"})


@dataclass(frozen=True, slots=True)
class Trial:
    """One kill.

    Attributes:
        flow: What is under way.
        step: Where it is killed; for `random`, the seed of the moment.
        mode: How the authorization server treats refresh tokens.
    """

    flow: str
    step: str
    mode: str

    @property
    def point(self) -> str:
        """The name of the point."""
        return self.flow if self.flow == "random" else f"{self.flow}.{self.step}"

    def __str__(self) -> str:
        return f"{self.flow}.{self.step}-{self.mode}"


@dataclass(slots=True)
class Report:
    """What one kill led to.

    Attributes:
        outcome: In a few words.
        violations: What must not have happened.
        seconds: How long all of it took.
        normal_after: How long the next server took until it had answered, without the waits for a processor.
    """

    outcome: str = ""
    violations: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    normal_after: float = 0.0

    def require(self, holds: object, what: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.violations.append(what)


def every_trial() -> list[Trial]:
    """Every point, in every mode where that makes a difference."""
    trials = [Trial("callback", step, MODES[n % 3]) for n, step in enumerate(points.CALLBACK)]
    trials += [Trial("refresh", step, mode) for step in points.REFRESH for mode in MODES]
    trials += [Trial("m2m", step, OWN) for step in points.M2M]
    trials += [Trial("refused", step, mode) for step in points.FAILED_REFRESH for mode in ("strict", "fixed")]
    return trials + [Trial("consent", step, MODES[n % 3]) for n, step in enumerate(points.CONSENT)]


def short_list(seeds: int) -> list[Trial]:
    """Every point once, in the mode that forgives least, and some moments that nobody chose."""
    strict = [trial for trial in every_trial() if trial.flow not in {"refresh", "refused"} or trial.mode == "strict"]
    return strict + [Trial("random", str(seed), MODES[seed % 3]) for seed in range(seeds)]


def run(world: World, trial: Trial) -> Report:
    """Kill once, start again, and look."""
    began, report = time.monotonic(), Report()
    world.sweep_seconds = 0.2
    if world.child is None or world.child.has_ended:
        world.start()
    try:
        _Run(world, trial, report).run()
    except Refused as refused:
        report.violations.append(f"I5, I6: not normal again: {refused}")
    except (Gone, AssertionError, TimeoutError) as error:
        report.violations.append(f"I5: {type(error).__name__}: {error}")
    finally:
        world.control.disarm()
        world.ledger.kill, world.ledger.status = None, 0
        if report.violations:
            world.end()  # the next trial begins with a server of its own
    report.seconds = time.monotonic() - began
    return report


@dataclass(slots=True)
class _Run:
    """One trial under way."""

    world: World
    trial: Trial
    report: Report
    landing: Landing | None = None
    served: dict[str, str] = field(default_factory=dict[str, str])
    asked: dict[str, int] = field(default_factory=dict[str, int])

    def run(self) -> None:
        """Kill once, start again, and look."""
        world, trial = self.world, self.trial
        users = self._users()
        before = self._prepare(users)
        self.asked = dict(world.ledger.asked)
        self._kill()
        started, kept_waiting = time.monotonic(), seconds_kept_waiting()
        world.start()
        assert world.child is not None
        after = world.look()
        self._compare(before, after)
        outcomes = [self._after_refresh(name, before.grants[name], after.grants[name]) for name in users]
        if trial.flow in {"m2m", "random"}:
            outcomes.append(self._after_own())
        kept_waiting = seconds_kept_waiting() - kept_waiting + seconds_kept_waiting(world.child.process)
        self.report.normal_after = max(0.0, time.monotonic() - started - kept_waiting)
        if self.landing is not None:
            outcomes.append(self._after_callback(self.landing, before, after))
        elif trial.flow == "consent":
            outcomes.append(f"another link, {world.until_normal(lambda: world.caller.land(trial.mode)) and 'given'}")
        self.report.require(self.report.normal_after <= NORMAL_SECONDS, "I5: longer than ten seconds")
        self._consents_end()
        self.report.require(not world.ledger.twice_exchanged(), "a code was exchanged twice")
        self.report.outcome = ", ".join(dict.fromkeys(outcomes))

    def _users(self) -> Sequence[str]:
        """The grants that are refreshed when the server is killed."""
        if self.trial.flow in {"refresh", "refused"}:
            return (self.trial.mode,)
        return tuple(mode for mode in MODES if mode != self.trial.mode) if self.trial.flow == "random" else ()

    def _prepare(self, users: Iterable[str]) -> Snapshot:
        """Bring the world to the moment before; what its vault holds then."""
        world, trial = self.world, self.trial
        before = world.seen or world.look()
        world.seen = None
        missing = [name for name in users if name not in before.grants or before.grants[name].state is not GrantState.ACTIVE]
        for provider in missing:
            world.consent(provider)
        world.pass_time(hours=2)
        if trial.flow in {"callback", "random"}:
            self.landing = world.until_normal(lambda: world.caller.land(trial.mode))
        return world.look() if missing else before

    # The kill

    def _kill(self) -> None:
        world, trial = self.world, self.trial
        child = world.child
        assert child is not None
        grant_type = GRANT_TYPES.get(trial.flow, "")
        stages: dict[str, Stage] = {"arrived": "arrived", "processed": "processed"}
        if trial.flow == "random":
            self._at_random(int(trial.step))
        elif trial.step in stages:
            world.ledger.kill = Kill(stages[trial.step], grant_type, child.process)
            self._act()
        else:
            world.ledger.status = 503 if trial.flow == "refused" else 0
            world.control.arm(f"{'refresh' if trial.flow == 'refused' else trial.flow}.{trial.step}")
            self._act()
        assert child.wait() == KILLED, f"it ended with {child.wait()}: {child.said()}"
        world.control.disarm()
        world.ledger.kill, world.ledger.status = None, 0

    def _act(self) -> None:
        """Do what passes the point."""
        caller, trial = self.world.caller, self.trial
        acts: dict[str, Callable[[], object]] = {
            "callback": lambda: caller.come_back(self._landed()),
            "refresh": lambda: caller.get_token(trial.mode),
            "refused": lambda: caller.get_token(trial.mode),
            "m2m": lambda: caller.get_token(OWN),
            "consent": lambda: caller.land(trial.mode),
        }
        try:
            answer = acts[trial.flow]()
        except Gone:
            return
        raise AssertionError(f"the point was not passed; the answer was {answer}")

    def _landed(self) -> Landing:
        assert self.landing is not None
        return self.landing

    def _at_random(self, seed: int) -> None:
        """Everything at once, and the end at a moment that nobody chose."""
        world, trial = self.world, self.trial
        rng = random.Random(seed)  # noqa: S311 - a moment that comes again is worth more here than a secret
        acts: list[Callable[[], Any]] = [lambda: world.caller.come_back(self._landed())]
        providers = [*(mode for mode in MODES if mode != trial.mode), OWN] * 2
        acts += [lambda provider=provider: self._serve(provider) for provider in providers]
        rng.shuffle(acts)
        threads = [threading.Thread(target=_until_gone, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.005, 0.5))
        assert world.child is not None
        world.child.kill()
        for thread in threads:
            thread.join()

    def _serve(self, provider: str) -> None:
        answer = self.world.caller.get_token(provider)
        if answer["status"] == "ok":
            self.served[provider] = answer["access_token"]

    # What must hold

    def _compare(self, before: Snapshot, after: Snapshot) -> None:
        """What no kill may do to anybody."""
        report, moving = self.report, {*self._users(), self.trial.mode, *([OWN] if self.trial.flow == "random" else [])}
        report.violations += [f"I1, I7: {problem}" for problem in after.problems]
        for name, grant in before.grants.items():
            report.require(name in after.grants, f"I1: the grant at {name} is gone")
            if name not in moving:
                report.require(after.grants.get(name) == grant, f"I1: the grant at {name} was changed")
        for provider, token in self.served.items():
            grant = after.grants.get(provider)
            kept = grant is not None and grant.tokens is not None and grant.tokens.access_token.reveal() == token
            report.require(kept, f"I1: a token of {provider} that was given out is not in the vault")
        served = ("get_token", "ok")
        written = after.events.get(served, 0) - before.events.get(served, 0)
        report.require(written >= len(self.served), "I7: a token was given out that the trail does not know")

    def _after_refresh(self, provider: str, before: Grant, after: Grant) -> str:
        """The grant is alive, or its loss has a name."""
        world, report, trial = self.world, self.report, self.trial
        assert before.tokens is not None
        assert after.tokens is not None
        refresh_token = after.tokens.refresh_token
        assert refresh_token is not None
        family = world.ledger.family_of(before.tokens.access_token.reveal())
        assert family is not None
        stored, usable = after.generation > before.generation, family.accepts(refresh_token.reveal())
        report.require(after.state is GrantState.ACTIVE, "I1: the kill itself ended the grant")
        report.require(not stored or usable, "I1: what was stored is not the newest")
        answer = self._patiently(lambda: world.caller.get_token(provider))
        if trial.flow != "random":
            window = trial.flow == "refresh" and trial.step in points.LOSING
            report.require(usable == (trial.mode != "strict" or not window), f"{trial} is not where it seems to be")
            report.require(stored == (trial.flow == "refresh" and trial.step in _STORED), f"{trial} is not where it seems")
            asked = world.ledger.asked.get("refresh_token", 0) - self.asked.get("refresh_token", 0)
            report.require(asked <= 2, f"the refresh token was brought {asked} times")
        if not usable:
            lost = (answer["status"], answer.get("reason")) == ("consent_required", Reason.LOST_IN_FLIGHT.value)
            report.require(lost, f"I1: lost in silence: {answer['status']}, {answer.get('reason')}")
            asked = world.ledger.asked.get("refresh_token", 0)
            again = world.until_normal(lambda: world.caller.get_token(provider))
            report.require(again.get("reason") == answer.get("reason"), "the loss has another name the second time")
            report.require(world.ledger.asked.get("refresh_token", 0) == asked, "a dead refresh token is brought again")
            return "lost_in_flight"
        token = answer.get("access_token")
        report.require(answer["status"] == "ok", f"I1: lost: {answer['status']}, {answer.get('reason')}")
        report.require(token in family.access_tokens, "I3: a token of another consent")
        if stored:
            report.require(token == after.tokens.access_token.reveal(), "I1: what was stored is not served")
        return "stored" if stored else "refreshed again"

    def _after_own(self) -> str:
        """The client's own token is one that it was given; there were two requests at the most."""
        ledger, report = self.world.ledger, self.report
        answer = self._patiently(lambda: self.world.caller.get_token(OWN))
        report.require(answer.get("access_token") in ledger.own_tokens, f"I1, I3: no token of its own: {answer['status']}")
        asked = ledger.asked.get("client_credentials", 0) - self.asked.get("client_credentials", 0)
        report.require(asked <= 2, f"it was asked for {asked} times")
        return "asked for twice" if asked == 2 else "asked for once"

    def _after_callback(self, landing: Landing, before: Snapshot, after: Snapshot) -> str:
        """The consent stands with its grant, or nothing of it does and the person begins again."""
        world, report, trial = self.world, self.report, self.trial
        code = world.ledger.codes[parse_qs(urlsplit(landing.path).query)["code"][0]]
        grant, old = after.grants.get(trial.mode), before.grants.get(trial.mode)
        completed = after.sessions[landing.session_id] == "completed"
        if completed:
            tokens = grant.tokens if grant else None
            mine = tokens is not None and tokens.access_token.reveal() in code.family.access_tokens
            report.require(mine, "I1: the consent stands without its grant")
        else:
            report.require(grant == old, "I1: the grant was changed by a consent that does not stand")
        if trial.flow == "callback":
            report.require(completed == (trial.step in _STORED), f"{trial} is not where it seems to be")
        status, _ = world.caller.come_back(landing)  # the person presses reload
        report.require(status in {303, 410}, f"the callback answers {status} the second time")
        report.require(code.brought <= 1, f"the code was brought {code.brought} times")
        answer = world.until_normal(lambda: world.caller.call("get_consent", session_uri=landing.session_uri))
        if completed:
            report.require(answer["status"] == "completed", f"the person sees {answer['status']} of what stands")
            served = world.until_normal(lambda: world.caller.get_token(trial.mode))
            report.require(served.get("access_token") in code.family.access_tokens, "I3: another token than the consent's")
            return "completed"
        if answer["status"] == "completed":  # the state had not been consumed, so the reload did it
            return "completed at the second time"
        return "begin again"

    def _consents_end(self) -> None:
        """When the time of every consent is over, all of them have ended."""
        world = self.world
        world.pass_time(hours=BEYOND_EVERY_CONSENT)
        until = time.monotonic() + 5
        while True:
            found = world.look()
            still_open = [state for state in found.sessions.values() if state in OPEN_STATES]
            if not still_open or time.monotonic() > until:
                break
            time.sleep(0.05)
        self.report.require(not still_open, f"I4: {len(still_open)} consents are still {still_open[:1]}")
        self.report.violations += [f"I1, I7: {problem}" for problem in found.problems]
        world.seen = found

    def _patiently(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do something that may have to watch a lease for fifteen seconds: let those pass where it waits.

        On a database that several machines share nobody knows that an owner is dead, so a lease is watched.
        """
        world = self.world
        if not world.database_url:
            return world.until_normal(act)
        answers: list[dict[str, Any] | BaseException] = []

        def work() -> None:
            try:
                answers.append(world.until_normal(act))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                answers.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            if thread.is_alive():
                world.jump_monotonic(16)
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]


def seconds_kept_waiting(process: int | str = "self") -> float:
    """How long the threads of a process were ready to run on a machine that had no processor for them.

    A server is not slow because others are busy; a lease that is watched, or a lock that is waited for, is no such wait.
    """
    waited = 0
    for each in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):
            waited += int(each.read_text().split()[1])
    return waited / 1e9


def _until_gone(act: Callable[[], Any]) -> None:
    """Do something that the end of the server may cut off; an error that it answers with is looked at later."""
    try:
        act()
    except (Gone, Refused):
        return
