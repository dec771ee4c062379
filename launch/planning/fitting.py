"""Which level of sharding, micro-batch and recomputation a machine has the memory for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.planning.blueprint import Blueprint, Weight, blueprint
from launch.planning.composing import composed, value_of
from launch.planning.depth import of_all_layers
from launch.planning.memory import CacheSize, States, Zero, cache_bytes, drawing_bytes, peak, states
from launch.planning.rows import RowShape
from launch.planning.trace import Footprint, footprint, forward_peak, kernels_of, with_autocast
from models.errors import ConfigError
from models.virtual_tokens import head_size, key_value_heads
from stages.ppo import PPOStage
from train.help import CONF
from train.sharding import deepspeed_config

if TYPE_CHECKING:
    from typing_extensions import Self

LEVELS = ("none", "zero1", "zero2", "zero3", "zero3_offload", "zero_infinity")  # from the least communication on
DISK = "deepspeed.nvme_path=/local/nvme"  # stands for the folder that a person has yet to name
ENOUGH = 2048  # tokens of a micro-batch that keep a GPU busy
MOST = 16_384  # tokens beyond which a larger one gains nothing


@dataclass(frozen=True)
class Machine:
    """What there is."""

    world: int  # processes, one a GPU
    memory: float  # bytes of a GPU that a stage can use
    device: str = "cuda"  # whose kernels of attention are counted


class Fit(NamedTuple):
    """One way to run the stage."""

    level: str
    checkpointing: bool
    rows: int  # of a micro-batch
    accumulation: int
    tokens: int  # of a micro-batch
    states: States
    micro: Footprint
    cache: int  # keys and values while sampling
    phases: dict[str, int]
    fits: bool

    @property
    def total(self) -> int:
        return max(self.phases.values())


class Planner:
    """Asks of a stage, with these options on rows of this shape, what it needs under each level.

    Traces are kept: sharding changes where states lie, not what is computed.
    """

    def __init__(self, stage: str, options: Sequence[str], shape: RowShape, machine: Machine) -> None:
        self.stage, self.options, self.shape, self.machine = stage, tuple(options), shape, machine
        self.cfg = composed(stage, options)
        self.rows_of_process = rows_of_process(self.cfg, machine.world)
        self.blueprint_of, self.micro_of = cache(self._blueprint), cache(self._micro)
        self.forwards_of, self.configured = cache(self._forwards), cache(self._configured)

    def on(self, machine: Machine) -> Self:
        """The same on another machine of its kind, with all traces."""
        other = copy(self)
        other.machine, other.rows_of_process = machine, rows_of_process(self.cfg, machine.world)
        return other

    def best(self) -> tuple[Fit, list[Fit]]:
        """The one to take, and the best of each level that the options leave open."""
        fits = [self.largest(level, often) for level, often in self.candidates()]
        if not fits:
            raise ConfigError("no level of deepspeed= goes with these options")
        enough = min(ENOUGH, self.rows_of_process * self.shape.tokens // self.shape.responses)
        for fitting in ([f for f in fits if f.fits and f.tokens >= enough], [f for f in fits if f.fits]):
            if fitting:
                return fitting[0], fits
        return min(fits, key=lambda fit: fit.total), fits

    def candidates(self) -> Iterator[tuple[str, bool]]:
        """Level and recomputation, the preferred first: recomputing costs a third more arithmetic, more than what
        stage 3 costs on a fast network; host memory is the last resort."""
        said = value_of(self.options, "deepspeed")
        known = [level for level in LEVELS if (CONF / "deepspeed" / f"{level}.yaml").is_file()]
        if self.machine.world == 1:  # which has nobody to share with
            known = [level for level in known if level not in LEVELS[1:4]]
        levels = known if said is None else [said]
        often = [False, True] if value_of(self.options, "trainer.gradient_checkpointing") is None else [None]
        for host in (False, True):
            for recompute in often:
                for level in levels:
                    if (level in LEVELS[4:]) == host and self.allowed(level, recompute):
                        yield level, self.cfg.trainer.gradient_checkpointing if recompute is None else recompute

    def allowed(self, level: str, recompute: bool | None) -> bool:
        """Whether the stage takes these together."""
        try:
            self.configured(level, recompute)
        except ConfigError:
            if value_of(self.options, "deepspeed") is not None and not recompute:
                raise
            return False
        return True

    def _configured(self, level: str, recompute: bool | None) -> Any:
        more = [] if recompute is None else [f"trainer.gradient_checkpointing={str(recompute).lower()}"]
        if level == LEVELS[-1] and value_of(self.options, "deepspeed.nvme_path") is None:
            more.append(DISK)
        return composed(self.stage, [*self.options, f"deepspeed={level}", *more])

    def largest(self, level: str, recompute: bool) -> Fit:
        """With the largest micro-batch that fits, or the smallest where none does. From the smallest on: the time of a
        trace grows with its rows, and of a large model few fit."""
        smallest, *larger = self.micro_batches()
        found = self.fit(level, recompute, smallest)
        for rows in larger if found.fits else ():
            tried = self.fit(level, recompute, rows)
            if not tried.fits:
                break
            found = tried
        return found

    def micro_batches(self) -> list[int]:
        """Rows of a micro-batch that divide a process's rows, rising to MOST tokens; the one that the options say."""
        if value_of(self.options, "trainer.accumulation") is not None:
            return [self.rows_of_process // self.cfg.trainer.accumulation]
        group = self.cfg.rl.samples if isinstance(self.cfg, PPOStage) else 1
        most = max(group, MOST * self.shape.responses // self.shape.tokens)
        sizes = range(group, min(most, self.rows_of_process) + 1, group)
        return [n for n in sizes if self.rows_of_process % n == 0]

    def fit(self, level: str, recompute: bool, rows: int) -> Fit:
        """What one way needs."""
        zero = self.zero(level)
        plan, world = self.blueprint_of(recompute), self.machine.world
        micro, (forwards, cached) = (
            self.micro_of(recompute, rows, zero.stage == 3 and self.cfg.trainer.bf16),
            self.forwards_of(recompute),
        )
        if zero.stage == 3 and isinstance(self.cfg, PPOStage):  # which samples and evaluates with whole weights
            forwards = {name: n_bytes + largest_model(plan.weights) for name, n_bytes in forwards.items()}
        found = states(plan.weights, zero, world)
        trained = sum(weight.numel for weight in plan.weights if weight.trained)
        phases = peak(found, micro, forwards, zero, trained, world)
        tokens = rows * self.shape.tokens // self.shape.responses
        n, fits = self.rows_of_process // rows, max(phases.values()) <= self.machine.memory
        return Fit(level, recompute, rows, n, tokens, found, micro, cached, phases, fits)

    def zero(self, level: str) -> Zero:
        """What the level shards."""
        cfg = self.configured(level, None)
        return Zero.of(deepspeed_config(cfg.deepspeed, cfg.trainer.bf16, cfg.trainer.max_grad_norm))

    def _blueprint(self, recompute: bool) -> Blueprint:
        made = blueprint(self.cfg, self.shape)
        made.model.train()
        if self.cfg.trainer.bf16:
            with_autocast(made.model)
        if recompute:
            made.model.activation_checkpointing_enable()
        return made

    def _micro(self, recompute: bool, rows: int, gathered: bool) -> Footprint:
        plan = self.blueprint_of(recompute)
        batch = plan.batch(rows)
        with kernels_of(self.machine.device):
            found = of_all_layers(
                [plan.model], partial(footprint, plan.model, plan.objective, batch, gathered=gathered)
            )
        return Footprint(*found)

    def _forwards(self, recompute: bool) -> tuple[dict[str, int], int]:
        """Of what runs without gradients, by its name; and of the cache while sampling."""
        plan, cached, found = self.blueprint_of(recompute), 0, {}
        models = [plan.model, *plan.frozen]
        for name, (work, batch_of, rows) in plan.forwards.items():
            batch = batch_of(rows)
            with kernels_of(self.machine.device):
                (found[name],) = of_all_layers(models, partial(forward_peak, models, work, batch))
        if isinstance(self.cfg, PPOStage) and self.cfg.rl.sampler.engine == "hf":
            size = self.cache_size(plan)
            cached = cache_bytes(size)
            found["sampling"] = cached + drawing_bytes(size.slots, plan.config.get_text_config().vocab_size)
        return found, cached

    def cache_size(self, plan: Blueprint) -> CacheSize:
        """Of the responses that one process samples at once."""
        config, rl = plan.config.get_text_config(), self.cfg.rl
        slots = min(rl.sampler.batch_size, -(-rl.prompts // self.machine.world) * rl.samples)
        itemsize = next(parameter.element_size() for parameter in plan.model.policy.parameters())
        heads = key_value_heads(config)
        sizes = (slots, self.shape.prompt, rl.max_new_tokens, itemsize)
        return CacheSize(config.num_hidden_layers, heads, head_size(config), *sizes)


def largest_model(weights: Sequence[Weight]) -> int:
    """Bytes of the role that has the most."""
    found: Counter[str] = Counter()
    for weight in weights:
        found[weight.role] += int(weight.n_bytes)
    return max(found.values())


def rows_of_process(cfg: Any, world: int) -> int:
    """Rows of a step that one process learns from. Raises ConfigError where they cannot be dealt out evenly."""
    size = cfg.trainer.batch_size
    group = cfg.rl.samples if isinstance(cfg, PPOStage) else 1
    if size % (group * world):
        whole = max(1, round(size / (group * world))) * group * world
        raise ConfigError(
            f"trainer.batch_size={size}: expected a multiple of {group * world}, {world} GPUs"
            + (f" × rl.samples={group}" if group > 1 else "")
            + f"; the nearest is {whole}"
        )
    return size // world
