"""What all sweepers share: from a command line to points, through the launcher, to a table and an exit code."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from launch.sweeps.points import Point, quoted, readable, stage_names, waves
from launch.sweeps.table import show
from models.errors import ConfigError
from train.config import StageConfig
from train.lock import FolderLock
from train.points import Outcome, PointsFailed, read_outcome
from train.processes import world_size
from train.pruning import LOG, PruneConfig, logged
from train.sweeps import SweepRecord, read_sweep, short_names

RUNTIME_OPTIONS = {field.name for field in fields(StageConfig) if field.metadata.get("runtime")}


@dataclass
class SweepConfig:
    """hydra.sweeper: what every sweep can be told."""

    params: dict[str, str] = field(default_factory=dict)  # options that vary, as typed; for conf/experiment/
    maximize: list[str] = field(default_factory=list)  # metrics of a point that count, as its point.json names them
    minimize: list[str] = field(default_factory=list)
    prune: PruneConfig = field(default_factory=PruneConfig)


class Sweep(Sweeper):
    """Runs points through whichever launcher was chosen, keeps the sweep's record, and says how it went."""

    def __init__(
        self, params: Mapping[str, str], maximize: Sequence[str], minimize: Sequence[str], prune: DictConfig
    ) -> None:
        self.params, self.maximize, self.minimize = dict(params), list(maximize), list(minimize)
        self.prune: PruneConfig = OmegaConf.to_object(prune)
        self.n_launched = 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @abstractmethod
    def explore(self, varied: Sequence[Override]) -> None:
        """Launch the points. varied: the options whose values are several, or a range."""

    def sweep(self, arguments: list[str]) -> None:
        """Raises ConfigError before anything is launched where the options make no sweep, PointsFailed at the end."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        typed = parser.parse_overrides(arguments)
        there = {override.get_key_element() for override in typed}
        params = [f"{option}={values}" for option, values in self.params.items() if option not in there]
        overrides = [*parser.parse_overrides(params), *typed]
        varied = [o for o in overrides if o.is_sweep_override()]
        self.fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override() and o.key_or_group != "name"]
        self._check(varied)
        self.name, self.outputs = str(self.config.name), Path(self.config.outputs)
        self.folder = Path(self.config.hydra.sweep.dir)
        self.short = short_names([o.get_key_element() for o in varied])
        lock = FolderLock(self.folder)
        lock.acquire()
        try:
            self.record = self._opened()
            self.explore(varied)
        finally:
            lock.release()
        self._conclude()

    def point(self, options: Mapping[str, str], name: str = "") -> Point:
        """A setting as a point; Hydra raises where it does not compose. name: in place of a readable one."""
        name = name or readable(options, self.short)
        here, loader = f"{self.name}/{name}", self.hydra_context.config_loader
        environment = self.prune.environment(self.folder).items()
        overrides = [
            *self.fixed,
            *(f"{option}={value}" for option, value in options.items()),
            f"name={quoted(here)}",
            *(f"++hydra.job.env_set.{variable}={quoted(value)}" for variable, value in environment),
        ]
        composed = loader.load_sweep_config(self.config, overrides)
        places = stage_names(composed, options, self.short, self.name, here)
        overrides += [f"{part}.name={quoted(place)}" for part, place in places.items() if place != here]
        stages = tuple(self.outputs / place / part for part, place in places.items()) or (self.outputs / here,)
        return Point(name, dict(options), tuple(overrides), stages)

    def launched(self, points: Sequence[Point]) -> list[Outcome]:
        """What came of the points, in their order. One that was pruned before stays so, the others are run or go on."""
        self.record.points |= {point.name: dict(point.options) for point in points}
        self.record.write(self.folder)
        for wave in waves([p for p in points if read_outcome(self.folder / p.name).state != "pruned"]):
            for point in wave:
                Outcome("waiting").write(self.folder / point.name)
            self._launch(wave)
        return [read_outcome(self.folder / point.name) for point in points]

    def check_metrics(self, points: Sequence[Point], outcomes: Sequence[Outcome]) -> None:
        """Raise ConfigError where an objective, or what prunes, is no metric of the points that were sealed."""
        sealed = [(p, o) for p, o in zip(points, outcomes, strict=True) if o.state == "sealed"]
        for metric in (*self.maximize, *self.minimize):
            for _, outcome in sealed:
                outcome.value(metric)
        logs = [log for p, _ in sealed for stage in p.stages for log in (*stage.glob(LOG), *stage.glob(f"*/{LOG}"))]
        if self.prune.metric and logs and not any(logged(log, self.prune.metric) for log in logs):
            raise ConfigError(f"hydra.sweeper.prune.metric={self.prune.metric}: not logged in {logs[0]}")

    def _launch(self, wave: Sequence[Point]) -> None:
        """Launchers raise when a process dies, and forget the other points: those are launched again, each alone."""
        first, self.n_launched = self.n_launched, self.n_launched + len(wave)
        cause = "it left no word"
        try:
            self.launcher.launch([point.overrides for point in wave], initial_job_idx=first)
        except Exception as error:
            if all(read_outcome(self.folder / point.name).state == "waiting" for point in wave):
                raise ConfigError(f"hydra/launcher: {error}") from error
            cause = str(error)
        for point in wave:
            if not read_outcome(self.folder / point.name).ended:
                if len(wave) > 1:
                    self._launch([point])
                else:
                    Outcome("failed", {}, f"its process died: {cause}", 1).write(self.folder / point.name)

    def _check(self, varied: Sequence[Override]) -> None:
        if "name" not in self.config or "outputs" not in self.config:
            raise ConfigError("--multirun: this stage leaves nothing that could be compared")
        if world_size() > 1:
            raise ConfigError("--multirun: is typed for one process; hydra.launcher.* says how many a point has")
        if not varied:
            raise ConfigError("--multirun: no option varies; say several values, as in trainer.learning_rate=1e-5,3e-5")
        for override in varied:
            if override.key_or_group in RUNTIME_OPTIONS:
                raise ConfigError(f"{override.input_line}: changes nothing of what a point is; say one value")
        if twice := set(self.maximize) & set(self.minimize):
            raise ConfigError(f"hydra.sweeper: {', '.join(sorted(twice))} cannot be maximised and minimised")

    def _opened(self) -> SweepRecord:
        """The record of this sweep, with the points of earlier calls. Raises ConfigError where another one is there."""
        fixed = sorted(line for line in self.fixed if line.partition("=")[0].partition(".")[0] not in RUNTIME_OPTIONS)
        now = SweepRecord(str(self.config.hydra.job.name), fixed, self.maximize, self.minimize)
        before = read_sweep(self.folder)
        if before and (before.stage, before.fixed) == (now.stage, now.fixed):
            now.points = before.points
            if not now.objectives:
                now.maximize, now.minimize = before.maximize, before.minimize
        elif before and any(outcome.state == "sealed" for outcome in before.outcomes(self.folder).values()):
            differing = ", ".join(sorted(set(before.fixed) ^ set(now.fixed))) or f"stages.{before.stage}"
            raise ConfigError(f"{self.folder} holds another sweep; it differs in {differing}. Choose another name=")
        return now

    def _conclude(self) -> None:
        outcomes = self.record.outcomes(self.folder)
        show(self.name, self.record, outcomes)
        print(f"report: python -m stages.report sweep={self.folder}")
        if failed := {name: outcome for name, outcome in outcomes.items() if outcome.state == "failed"}:
            first, outcome = next(iter(failed.items()))
            raise PointsFailed(
                f"{len(failed)} of {len(outcomes)} points failed; {first}: {outcome.cause}. The same command runs them "
                "again",
                outcome.code,
            )
