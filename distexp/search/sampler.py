"""The process that asks Optuna's TPE: JSON lines in, JSON lines out. Imports Optuna; the manager does not.

Everything is in memory, and what it suggests depends only on what it was told: each question makes a new
sampler from its own seed, and the history is sorted by number.
"""

import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal

import msgspec

Place = float | int | None  # of one dimension; None: the configuration has none


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Begin a search: how many choices each dimension has, null for a number between 0 and 1."""

    search: str
    counts: list[int | None]
    maximize: bool


class Trial(msgspec.Struct, frozen=True, tag="trial"):
    """A configuration that has ended; a later one of its number replaces it."""

    search: str
    number: int
    places: list[Place]
    value: float | None  # None: it has failed
    stopped_at: float | None = None  # the step at which it was stopped early


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Ask for one more; the answer is a `Suggestion`."""

    search: str
    seed: int


class Suggestion(msgspec.Struct, frozen=True):
    """A place in each dimension."""

    places: list[float | int]


Message = Begin | Trial | Ask


class _Sampler:
    """Samples for one search: its dimensions, its history, and a study of that."""

    def __init__(self, space: Begin) -> None:
        from optuna import distributions  # half a second, and a user's extra

        self._direction: Literal["maximize", "minimize"] = "maximize" if space.maximize else "minimize"
        self._dimensions: dict[str, Any] = {
            str(at): distributions.FloatDistribution(0, 1)
            if count is None
            else distributions.CategoricalDistribution([*range(count)])
            for at, count in enumerate(space.counts)
        }
        self._trials: dict[int, Trial] = {}
        self._study: Any = None
        self._last = -1  # number of the last trial in the study

    def tell(self, trial: Trial) -> None:
        """Take up a trial."""
        if trial.number <= self._last:
            self._study = None
        self._trials[trial.number] = trial

    def ask(self, seed: int) -> list[float | int]:
        """Return a place in each dimension."""
        import optuna

        if self._study is None:
            self._study, self._last = optuna.create_study(direction=self._direction), -1
        new = sorted(number for number in self._trials if number > self._last)
        self._study.add_trials([self._frozen(self._trials[number]) for number in new])
        self._last = new[-1] if new else self._last
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        study = self._study
        trial = study.ask(self._dimensions)
        places = [trial.params[name] for name in self._dimensions]
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # what comes of it, comes as a `Trial`
        return places

    def _frozen(self, trial: Trial) -> Any:
        from optuna.trial import TrialState, create_trial

        given = {str(at): place for at, place in enumerate(trial.places) if place is not None}
        state, steps = TrialState.COMPLETE, {}
        if trial.value is None:
            state = TrialState.FAIL
        elif trial.stopped_at is not None:
            state, steps = TrialState.PRUNED, {int(trial.stopped_at): trial.value}
        return create_trial(
            state=state,
            value=trial.value if state is TrialState.COMPLETE else None,
            params=given,
            distributions={name: self._dimensions[name] for name in given},
            intermediate_values=steps,
        )


def serve(messages: BinaryIO, replies: BinaryIO) -> None:
    """Answer until nothing more comes."""
    warnings.simplefilter("ignore")
    decoder, samplers = msgspec.json.Decoder(Message), dict[str, _Sampler]()
    for line in messages:
        message = decoder.decode(line)
        match message:
            case Begin():
                samplers[message.search] = _Sampler(message)
            case Trial():
                samplers[message.search].tell(message)
            case Ask():
                reply = Suggestion(samplers[message.search].ask(message.seed))
                replies.write(msgspec.json.encode(reply) + b"\n")
                replies.flush()


def main(words: Sequence[str] = ()) -> None:
    """Serve on standard input and output; Ctrl+C is for the manager, whose end closes the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = sys.stdout.buffer
    sys.stdout = sys.stderr  # for whatever a library prints
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
