"""The trials of a search in Optuna's journal: a candidate is asked for, what is learnt of it is noted at once, and a search
that was cut off finds everything again."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.explore.selection import FINAL, Hardware
from compiler.explore.space import DENSE, Algorithm, Candidate, Space
from compiler.tools.exploring.accuracy import Judged
from hw_targets.errors import InputError, MissingToolError, UsageError

JOURNAL = "journal.log"
MEASURED = "measured"
GENERATION = 16
"""Candidates asked for at a time where they are sampled: as many whatever the workers, so that the search is the same."""
MOST_ASKED = 8
"""Times the size of the space after which a sampler is taken to have nothing new."""
CANDIDATE, HARDWARE, JUDGED, PROBLEM, ESTIMATE = "candidate", "hardware ", "judged ", "problem ", "estimate "
TRAINED, UNTRAINED, LESSONS = "trained ", "untrained ", "lessons "


def import_optuna() -> Any:
    """Raises MissingToolError."""
    try:
        import optuna  # pyright: ignore[reportMissingImports]
        import threadpoolctl  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = f"hpcc-explore needs {error.name or 'optuna'}"
        raise MissingToolError("HPCC5130", message, hint="pip install 'hpcc[explore]'") from error
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


class Ledger:
    """What was measured, and the trials of one search.

    `identity` is what measurements depend on: they serve every search of the folder. `search` names the limits and what else
    decides what is tried: each has a study of its own. `digests` are the devices'. `judging` is what scores depend on
    besides, `training` what trained prunings do. Raises InputError, UsageError.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        identity: Mapping[str, str],
        digests: Mapping[str, str],
        search: str,
        sampler: str,
        seed: int,
        judging: str = "",
        training: str = "",
    ) -> None:
        self._optuna = import_optuna()
        self._space, self._digests, self._sampler, self._seed = space, digests, sampler, seed
        self._judged_name, self._trained_name = f"{JUDGED}{judging} ", f"{TRAINED}{judging} {training} "
        self._path = folder / JOURNAL
        self._measured, self.study = self._open(search)
        known = self.fact("identity")
        if known is None:
            self.note_fact("identity", dict(identity))
        elif known != dict(identity):
            changed = sorted(key for key in {*known, *identity} if known.get(key) != identity.get(key))
            message = f"the folder holds a search with other {', '.join(changed)}"
            raise UsageError("HPCC2286", message, hint="-o another folder, or delete this one")
        self.done: set[Candidate] = set()
        self.hardware: dict[Candidate, Hardware] = {}
        self.judged: dict[Algorithm, Judged] = {}
        self.trained: dict[Algorithm, Judged] = {}
        self.problems: dict[Algorithm, str] = {}
        self.failed_before: list[Algorithm] = []
        """What came to no end in an earlier run of the search: worth another try."""
        self.untrained: dict[Algorithm, str] = {}
        """Why the training of some came to nothing."""
        self.estimates: dict[Algorithm, float] = {}
        self.waiting: dict[Candidate, list[Any]] = {}
        """Candidates that were asked for and are not finished, with their trials: a sampler may ask for one twice."""
        self.resumed = 0
        self._read()

    def _open(self, search: str) -> tuple[Any, Any]:
        """The studies of the measurements and of the search."""
        storages = self._optuna.storages
        try:
            _check_journal(self._path)
            storage = storages.JournalStorage(storages.journal.JournalFileBackend(str(self._path)))
            directions = ["minimize"] if self._sampler == "tpe" else ["minimize", "maximize"]
            make = self._optuna.create_study
            return (
                make(storage=storage, study_name=MEASURED, load_if_exists=True),
                make(storage=storage, study_name=search, directions=directions, load_if_exists=True),
            )
        except Exception as error:  # a damaged journal fails anywhere in Optuna
            reason = str(error).strip().splitlines() or [type(error).__name__]
            hint = "delete it to search anew; explore.json keeps what was found"
            raise InputError("HPCC1581", f"the journal is damaged: {reason[0]}", where=str(self._path), hint=hint) from error

    def _read(self) -> None:
        """Take up what earlier runs noted; what was cut off waits to be finished."""
        states = self._optuna.trial.TrialState
        for frozen in self.study.get_trials(deepcopy=False):
            attributes = frozen.user_attrs
            running = frozen.state == states.RUNNING
            if CANDIDATE not in attributes:
                if running:  # cut off while it was asked for
                    self.study.tell(frozen.number, state=states.FAIL)
                continue
            candidate = _candidate(attributes[CANDIDATE])
            if running:
                self.waiting.setdefault(candidate, []).append(self._optuna.trial.Trial(self.study, frozen._trial_id))
            else:
                self.done.add(candidate)
            self.resumed += 1
        for name, data in self._measured.user_attrs.items():
            if name.startswith(HARDWARE):
                digest, _, text = name.removeprefix(HARDWARE).partition(" ")
                candidate = _candidate(json.loads(text))
                if self._digests.get(candidate.device) == digest:
                    self.hardware[candidate] = Hardware(**data)
            elif name.startswith(self._judged_name):
                self.judged[_algorithm(name.removeprefix(self._judged_name))] = Judged.of(data)
            elif name.startswith(self._trained_name):
                self.trained[_algorithm(name.removeprefix(self._trained_name))] = Judged.of(data)
            elif name.startswith(ESTIMATE):
                self.estimates[_algorithm(name.removeprefix(ESTIMATE))] = data
        for name, data in self.study.user_attrs.items():
            if name.startswith(self._judged_name):
                self.judged.setdefault(_algorithm(name.removeprefix(self._judged_name)), Judged.of(data))
            elif name.startswith(PROBLEM):
                self.failed_before.append(_algorithm(name.removeprefix(PROBLEM)))
            elif name.startswith(UNTRAINED):
                self.untrained[_algorithm(name.removeprefix(UNTRAINED))] = data

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask_all(self, candidates: Sequence[Candidate]) -> None:
        """Ask for each of a space that is small enough; what was asked for before is not asked for again."""
        for candidate in candidates:
            if candidate not in self.done and candidate not in self.waiting:
                self._begin(self.study.ask(), candidate)

    def sample(self) -> bool:
        """Have the sampler ask for a generation, or for what is left of one that was cut off; False where it keeps finding
        what is known."""
        asked = len(self.study.get_trials(deepcopy=False))
        for number in range(asked, asked + GENERATION - (asked % GENERATION if self.waiting else 0)):
            self.study.sampler = self._new_sampler(number)
            trial = self.study.ask()
            self._begin(trial, self._suggested(trial))
        return asked < MOST_ASKED * len(self._space)

    def _begin(self, trial: Any, candidate: Candidate) -> None:
        trial.set_user_attr(CANDIDATE, asdict(candidate))
        self.waiting.setdefault(candidate, []).append(trial)

    def _new_sampler(self, number: int) -> Any:
        """One for each trial, seeded by its number: a resumed search asks for the same."""
        samplers, seed = self._optuna.samplers, self._seed + 1_000_003 * number
        if self._sampler == "nsga2":
            return samplers.NSGAIISampler(population_size=GENERATION, seed=seed)
        return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, group=True)

    def _suggested(self, trial: Any) -> Candidate:
        kind = trial.suggest_categorical("kind of device", list(self._space.parts))
        part = self._space.parts[kind]
        device = trial.suggest_categorical(kind, list(part.devices))
        family = trial.suggest_categorical(f"{kind} family", list(part.families))
        choices = (DENSE, *part.families[family])
        attention = forward = choices[trial.suggest_int(f"{kind} {family} level", 0, len(choices) - 1)]
        if part.mixed:
            forward = choices[trial.suggest_int(f"{kind} {family} level of the feed-forward", 0, len(choices) - 1)]
        return Candidate(device, Algorithm(attention, forward, part.precision))

    # ---- noting -----------------------------------------------------------------------------------------------------

    def note_hardware(self, candidate: Candidate, hardware: Hardware) -> None:
        self.hardware[candidate] = hardware
        name = f"{HARDWARE}{self._digests[candidate.device]} {json.dumps(asdict(candidate))}"
        self._measured.set_user_attr(name, asdict(hardware))

    def note_estimate(self, algorithm: Algorithm, estimate: float) -> None:
        self.estimates[algorithm] = estimate
        self._measured.set_user_attr(ESTIMATE + _name(algorithm), estimate)

    def note_judged(self, algorithm: Algorithm, judged: Judged) -> None:
        """The accuracy of an algorithm, whatever the device. What was only ruled out holds for this search's limit alone."""
        self.judged[algorithm] = judged
        study = self._measured if judged.fidelity in FINAL else self.study
        study.set_user_attr(self._judged_name + _name(algorithm), judged.as_dict())

    def note_trained(self, algorithm: Algorithm, judged: Judged) -> None:
        """The accuracy of a trained pruning."""
        self.trained[algorithm] = judged
        self._measured.set_user_attr(self._trained_name + _name(algorithm), judged.as_dict())

    def note_untrained(self, algorithm: Algorithm, text: str) -> None:
        self.untrained[algorithm] = text
        self.study.set_user_attr(UNTRAINED + _name(algorithm), text)

    def lessons(self, level: int) -> list[Algorithm] | None:
        """What was decided to be trained as the rungs of a height, None if nothing was decided."""
        noted = self.study.user_attrs.get(f"{LESSONS}{level}")
        return None if noted is None else [_algorithm(name) for name in noted]

    def note_lessons(self, level: int, algorithms: Sequence[Algorithm]) -> None:
        self.study.set_user_attr(f"{LESSONS}{level}", [_name(algorithm) for algorithm in algorithms])

    def note_problem(self, algorithm: Algorithm, text: str) -> None:
        self.problems[algorithm] = text
        self.study.set_user_attr(PROBLEM + _name(algorithm), text)

    def fact(self, name: str) -> Any:
        """What was noted of the folder, None if nothing."""
        return self._measured.user_attrs.get(name)

    def note_fact(self, name: str, value: Any) -> None:
        self._measured.set_user_attr(name, value)

    def finish(self, candidate: Candidate, values: Sequence[float] | None, steps: Sequence[float] = ()) -> None:
        """Close the trials of a candidate: with values, or as pruned. `steps` are what the fidelities said on the way."""
        states = self._optuna.trial.TrialState
        for trial in self.waiting.pop(candidate):
            if self._sampler == "tpe":
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="The reported value is ignored")  # of a trial that was cut off
                    for step, value in enumerate(steps):
                        trial.report(value, step)
            if values is None:
                self.study.tell(trial, state=states.PRUNED)
            else:
                self.study.tell(trial, list(values) if self._sampler == "nsga2" else values[0])
        self.done.add(candidate)


def _check_journal(path: Path) -> None:
    """Before anything is written to it. A last line that was cut off goes: Optuna would write on behind it. Raises
    ValueError."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    if 0 < whole < len(content):
        os.truncate(path, whole)


def _candidate(data: Mapping[str, Any]) -> Candidate:
    return Candidate(data["device"], Algorithm(**data["algorithm"]))


def _algorithm(name: str) -> Algorithm:
    return Algorithm(**json.loads(name))


def _name(algorithm: Algorithm) -> str:
    return json.dumps(asdict(algorithm))
