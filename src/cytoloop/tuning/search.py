"""The search itself: trials drawn by TPE, ended early by their val Dice, skipped where they cost too much.

The sampler is Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), over all settings at once
(multivariate: Falkner et al. 2018, arXiv:1807.01774). Neither it nor its chance is stored: it is made anew
for each trial, seeded by the number of those before, so that a search that was killed goes on as if it had
not been.

Trials are ended by successive halving without waiting (ASHA: Li et al. 2020, arXiv:1810.05934), first after two
fifths of their epochs. The median rule of Golovin et al. 2017, Google Vizier, compares with completed trials only,
so that it grows stricter as the search goes on: it found the best settings later than no pruning did, or never
(tests/benchmarks/tuning.py, docs/results.md). Hyperband leaves a handful of trials in each bracket of such a search;
and the Wilcoxon pruner is for scores over folds, not over epochs.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from cytoloop.errors import ModelError, ParamsError
from cytoloop.params import TuneParams
from cytoloop.tuning.candidate import Candidate, Unbuildable
from cytoloop.tuning.space import ARCHITECTURE, Choice, Sections, draw, settled
from cytoloop.tuning.study import do_again, retry_of

Prepare = Callable[[Sections], Candidate]
"""Builds the network of a trial; raises Unbuildable."""
ENDED = ("COMPLETE", "PRUNED")
COPIED = ("parameters", "memory_mib", "latency_ms", "skipped")
"""What is known of a trial that a copy of it takes over."""


@dataclass(frozen=True)
class Search:
    """A search over one study.

    Several processes may search the same study at once: none tries what another one is trying.
    """

    study: Any
    params: TuneParams
    declared: Sections
    """The sections of params.yaml."""
    prepare: Prepare

    def run(self) -> None:
        """Bring the study to all its trials: those that nobody has begun are done here, the others' are waited for."""
        from tqdm import tqdm

        self.study.pruner = _pruner(self.params)
        trials = self._trials()
        with tqdm(total=self.params.trials, initial=_done(trials), desc="tune", unit="trial", mininterval=0) as bar:
            while _running(trials) or not self._is_over(trials):
                if _done(trials) + _running(trials) < self.params.trials and not self._is_over(trials):
                    self._next()
                else:
                    self._wait()
                before, trials = trials, self._trials()
                bar.set_postfix_str(_best_so_far(trials), refresh=False)
                bar.update(_done(trials) - _done(before))

    def _trials(self) -> list[Any]:
        trials: list[Any] = self.study.get_trials(deepcopy=False)
        return trials

    def _wait(self) -> None:
        """For the others; the trials of those that died are freed meanwhile."""
        import optuna

        time.sleep(1)
        optuna.storages.fail_stale_trials(self.study)

    def _is_over(self, trials: list[Any]) -> bool:
        """Whether no other trial may begin: all are done, or the time is spent and something came of it."""
        if _done(trials) >= self.params.trials:
            return True
        if self.params.minutes is None or not any(trial.state.name == "COMPLETE" for trial in trials):
            return False
        return sum(float(trial.user_attrs.get("seconds", 0)) for trial in trials) >= 60 * self.params.minutes

    def _next(self) -> None:
        """One trial; one that is interrupted is the first of the next run."""
        begun: list[int] = []

        def objective(trial: Any) -> Any:
            begun.append(trial.number)
            return self._objective(trial)

        self.study.sampler = self._sampler()
        try:
            self.study.optimize(objective, n_trials=1)
        except BaseException:
            with suppress(Exception):  # the study's database may be what is away
                do_again(self.study, self.study.get_trials()[begun[0]])
            raise

    def _sampler(self) -> Any:
        """A sampler whose chance depends on the number of choices before this one, those of retries left out."""
        import optuna

        drawn = [trial for trial in self._trials() if trial.state.name != "WAITING" and retry_of(trial) is None]
        return optuna.samplers.TPESampler(
            seed=self.params.seed * 1000 + len(drawn),
            n_startup_trials=self.params.startup_trials,
            group=ARCHITECTURE in self.params.space,  # which settings there are depends on it
        )

    def _objective(self, trial: Any) -> Any:
        choice = draw(trial, self.params.space, self.declared)
        self._note_retry(trial)
        alike = self._alike(trial)
        if alike is not None:
            return _copied(trial, alike)
        watch = _Watch(trial, self.params)
        candidate = self._candidate(trial, choice)
        try:
            score = candidate.train(watch.after_epoch)
        except ModelError:
            watch.diverged()
        return (score, candidate.cost.latency_ms) if self.params.latency else score

    def _note_retry(self, trial: Any) -> None:
        """Say which trial this one does again; what that one took is not this one's."""
        again = retry_of(self._trials()[trial.number])
        if again is not None:
            trial.set_user_attr("retry_of", again)
            trial.set_user_attr("seconds", 0.0)

    def _alike(self, trial: Any) -> Any:
        """An earlier trial of the same choice, when it has ended; None where there is none."""
        while True:
            same = [other for other in self._trials() if other.params == trial.params]
            ended = [other for other in same if other.state.name in ENDED]
            if ended or not any(other.state.name == "RUNNING" and other.number < trial.number for other in same):
                return next(iter(ended), None)
            self._wait()

    def _candidate(self, trial: Any, choice: Choice) -> Candidate:
        """The trial's network, built but not trained; raises TrialPruned where it is beyond a limit."""
        try:
            candidate = self.prepare(settled(self.declared, choice))
        except (Unbuildable, ParamsError) as error:
            _skip(trial, " ".join(str(error).split()), {"built": 1})
        cost, limits = candidate.cost, self.params.limits
        for name in ("parameters", "memory_mib", "latency_ms"):
            if getattr(cost, name) is not None:
                trial.set_user_attr(name, getattr(cost, name))
        if reason := cost.beyond(limits):
            _skip(trial, reason, cost.excess(limits))
        _constrain(trial, cost.excess(limits))
        return candidate


class _Watch:
    """Follows a trial's training: tells the study of each epoch, and ends what is hopeless.

    With two objectives Optuna takes no reports, so that no trial is ended and none has a curve.
    """

    def __init__(self, trial: Any, params: TuneParams) -> None:
        self._trial = trial
        self._reports = not params.latency
        self._prunes = params.pruning is not None
        self._epochs = params.epochs
        self._epoch = 0
        self._begun = time.monotonic()

    def after_epoch(self, epoch: int, score: float) -> None:
        import optuna

        self._epoch = epoch
        self._note()
        if self._reports:
            self._trial.report(score, epoch)
            if self._prunes and epoch < self._epochs and self._trial.should_prune():
                raise optuna.TrialPruned

    def _note(self) -> None:
        """The seconds until now, also for the case that the process is killed."""
        self._trial.set_user_attr("seconds", round(time.monotonic() - self._begun, 3))

    def diverged(self) -> NoReturn:
        """End a trial whose loss is no longer a number; it counts as one that found nothing."""
        import optuna

        self._note()
        if self._reports:
            self._trial.report(0.0, self._epoch + 1)
        raise optuna.TrialPruned


def _pruner(params: TuneParams) -> Any:
    import optuna

    if params.pruning is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=params.pruning.first_look(params.epochs), reduction_factor=params.pruning.keep_one_in
    )


def _skip(trial: Any, reason: str, excess: dict[str, float]) -> NoReturn:
    """End a trial untrained; the sampler learns by how much it was beyond what is allowed."""
    import optuna

    trial.set_user_attr("skipped", reason)
    _constrain(trial, excess)
    raise optuna.TrialPruned


def _constrain(trial: Any, excess: dict[str, float]) -> None:
    known = trial.constraints  # of a trial that is done again
    for name, value in excess.items():
        if name not in known:
            trial.set_constraint(name, value)


def _copied(trial: Any, alike: Any) -> Any:
    """What an earlier trial of the same choice came to; a small space repeats itself."""
    import optuna

    trial.set_user_attr("copy_of", alike.number)
    for name in COPIED:
        if name in alike.user_attrs:
            trial.set_user_attr(name, alike.user_attrs[name])
    _constrain(trial, alike.constraints)
    for epoch, score in alike.intermediate_values.items():
        trial.report(score, epoch)
    if alike.state.name == "PRUNED":
        raise optuna.TrialPruned
    return alike.values


def _done(trials: list[Any]) -> int:
    """Trials that are done, skipped ones too."""
    return sum(trial.state.name in ENDED for trial in trials)


def _running(trials: list[Any]) -> int:
    """Trials that a process is at, or was when it died."""
    return sum(trial.state.name == "RUNNING" for trial in trials)


def _best_so_far(trials: list[Any]) -> str:
    scores = [trial.values[0] for trial in trials if trial.state.name == "COMPLETE"]
    return f"best val Dice={max(scores):.3f}" if scores else ""
