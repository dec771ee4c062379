"""Rankings of the embedded world: own samples and corrupted variants, judged by the truth, with label noise."""

from __future__ import annotations

import random
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruct.sources import asked
from instruct.world import Task, World, judge
from models.chat import ChatFormat
from models.generation import end_tokens, sample
from reward.rankings import Ranking
from reward.sampling import SAMPLED, Candidate, SamplingConfig, flipped_pairs, rank, with_noise
from train.run import Run


def sampled_rankings(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cfg: SamplingConfig, world_seed: int, run: Run
) -> tuple[list[Ranking], list[Ranking], dict[str, Any]]:
    """Noisy rankings of training prompts, clean rankings of development prompts, and what was done."""
    world = World(world_seed)
    train_tasks = shuffled(world.tasks("train", -(-cfg.prompts // 8)), cfg.prompts, run)
    held_tasks = shuffled(world.tasks("dev", -(-cfg.held_out // 8)), cfg.held_out, run)
    clean = ranked(policy, tokenizer, world, train_tasks, cfg, run, "rankings")
    held = ranked(policy, tokenizer, world, held_tasks, cfg, run, "held-out rankings")
    noisy = with_noise(clean, cfg.noise, random.Random(run.random_seed("label noise")))
    flipped = flipped_pairs(clean, noisy)
    run.say(f"{len(noisy)} rankings, {flipped:.1%} of their pairs turned or tied by label noise; {len(held)} held out")
    return noisy, held, {"pairs_flipped_by_noise": flipped, "world_seed": world_seed}


def ranked(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    tasks: list[Task],
    cfg: SamplingConfig,
    run: Run,
    purpose: str,
) -> list[Ranking]:
    """Sample, add variants, judge."""
    chat = ChatFormat(tokenizer)
    prompts = asked(tasks)
    ids = [chat.prompt(prompt) for prompt in prompts for _ in range(cfg.samples)]
    found = sample(
        policy,
        ids,
        max_new_tokens=cfg.max_new_tokens,
        ends=end_tokens(policy, tokenizer, chat),
        temperature=cfg.temperature,
        generator=run.generator(purpose),
    )
    own = [Candidate(chat.text(s.ids), SAMPLED, s.ended) for s in found]
    rng = random.Random(run.random_seed(f"variants of {purpose}"))
    offered = []
    for i, task in enumerate(tasks):
        made = [Candidate(text, kind) for kind, text in world.variants(task, rng)]
        offered.append(own[i * cfg.samples : (i + 1) * cfg.samples] + rng.sample(made, min(cfg.variants, len(made))))
    return rank(prompts, offered, lambda i, candidate: judge(tasks[i], candidate.text, candidate.ended))


def shuffled(tasks: list[Task], n: int, run: Run) -> list[Task]:
    """n of the tasks, in an order of this run's seed."""
    return random.Random(run.random_seed("task order")).sample(tasks, min(n, len(tasks)))
