"""The loop of every policy gradient on a tiny model: first ratio, rollouts gone on with, what is kept, when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.chat import ChatFormat, Message
from models.errors import ConfigError, NumericsError
from models.generation import Sample
from models.layout import Batch, LayoutConfig, Tree
from models.loading import ModelConfig, load_policy, tokenizer_digest
from models.scorer import AxisWeights, reward_model_from, score_trees
from reward.ensemble import MembersConfig, RewardModel
from reward.members import Member
from rl.actor_critic import ActorCritic, critic_from
from rl.algorithms import ALGORITHMS
from rl.config import ConstraintConfig, FinalWeights, KLConfig, RLConfig, ScoreConfig
from rl.experience import Controls, Experience, experience
from rl.loop import Minibatches, RLBatches
from rl.mismatch import sampler_mismatch
from rl.objective import PolicyObjective, check_first_ratio
from rl.rollout import Answers, Question, Ranks, Rollout, RolloutEngine, freeze
from rl.samplers import HFSampler, SamplerConfig, Sampling
from rl.selection import Selection
from stages.critics import critic_weights
from stages.reward_terms import RewardTerms, main_term

PROMPTS = [(Message("user", f"what is the capital of {name} ?"),) for name in ("peru", "spain", "chad", "mali")]
GROUPS = [name for name, algorithm in ALGORITHMS.items() if algorithm.groups]


def config(**changes: object) -> RLConfig:
    standard = {"rollouts": 2, "prompts": 8, "epochs": 2, "max_new_tokens": 6, "samples": 2}
    return RLConfig(**{**standard, **changes})


def scorer_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> RewardTerms:
    """A reward model that reads the policy's own tokens."""
    member = Member(RewardModel(freeze(model), tokenizer, LayoutConfig()), None, tokenizer_digest(tokenizer), "reward")
    return RewardTerms([main_term([member], MembersConfig())], ChatFormat(tokenizer), None)


class Parts:
    """Everything that the loop needs, from one folder."""

    def __init__(self, folder: str, cfg: RLConfig, tmp_path: Path) -> None:
        model_cfg = ModelConfig(path=folder)
        self.policy, self.tokenizer = load_policy(folder, model_cfg)
        reference, _ = load_policy(folder, model_cfg)
        reward_model, critic = (
            reward_model_from(self.policy, self.tokenizer, torch.Generator().manual_seed(1)) for _ in range(2)
        )
        self.scorer = scorer_of(reward_model, self.tokenizer)
        valued = critic_from(critic, critic_weights(cfg, self.scorer)) if cfg.kind.critic else None
        self.model = ActorCritic(self.policy, freeze(reference), valued)
        self.chat, self.cfg, self.told, self.tmp_path = ChatFormat(self.tokenizer), cfg, [], tmp_path
        self.questions = [Question(i, prompt, self.chat.prompt(prompt)) for i, prompt in enumerate(PROMPTS)]
        self.engine = RolloutEngine(
            model=self.model,
            scorer=self.scorer,
            sampler=HFSampler(Sampling({self.chat.end_ids[-1]}, cfg.max_new_tokens, cfg.temperature)),
            temperature=cfg.temperature,
            layout=LayoutConfig(bin_tokens=64),
            ranks=Ranks(),
        )
        self.objective = PolicyObjective(cfg)

    def batches(self, accumulation: int = 1) -> RLBatches:
        return RLBatches(
            engine=self.engine,
            pool=self.questions,
            cfg=self.cfg,
            objective=self.objective,
            controls=Controls.of(self.cfg),
            minibatches=Minibatches(8, accumulation),
            seed=3,
            ptx=None,
            after_update=lambda found: bool(self.told.append((found.iteration, found.experience))),
        )

    def loss(self, batch: Batch) -> Tensor:
        return self.objective(self.model, batch, batch["units"])[0]

    def rollout(self, n: int = 2) -> Rollout:
        generators = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
        return Rollout.of(self.engine.collect(self.questions, n, generators, {}), {})

    def experience(self, rollout: Rollout, controls: Controls | None = None) -> Experience:
        weights = self.cfg.column_weights(self.scorer.weights, 0.0)
        return experience(rollout, self.cfg, controls or Controls.of(self.cfg), self.scorer.columns, weights)


@pytest.fixture
def parts(any_folder: str, tmp_path: Path) -> Parts:
    return Parts(any_folder, config(), tmp_path)


@pytest.fixture
def llama(llama_folder: str, tmp_path: Path) -> Parts:
    return Parts(llama_folder, config(), tmp_path)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_minibatch_has_ratio_one_and_clips_nothing(
    algorithm: str, ratio: str, llama_folder: str, tmp_path: Path
) -> None:
    parts = Parts(llama_folder, config(algorithm=algorithm, ratio=ratio), tmp_path)
    batch = next(iter(parts.batches()))
    assert batch["weight"].gt(0).all()
    parts.loss(batch).backward()
    metrics = parts.objective.step_metrics()
    total, count = metrics["policy/ratio"]
    assert total / count == pytest.approx(1.0, abs=1e-3)
    assert metrics["policy/clip_fraction"][0] == 0
    assert metrics["policy/approx_kl"][0] == pytest.approx(0.0, abs=1e-5)
    assert (parts.model.critic is not None) == ("value/loss" in metrics)
    assert all(torch.isfinite(p.grad).all() for p in parts.model.parameters() if p.grad is not None)


def test_a_first_ratio_off_one_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"off 1 by 0\.01"):
        check_first_ratio(torch.tensor([0.0, 0.01]))


def test_the_kl_of_the_starting_policy_is_zero(parts: Parts) -> None:
    found = parts.experience(parts.rollout())
    torch.testing.assert_close(found.kl, torch.zeros(8), atol=1e-5, rtol=0)


def test_the_critics_of_a_whole_response_are_the_weighted_reward_and_the_cost(
    llama_folder: str, tmp_path: Path
) -> None:
    parts = Parts(llama_folder, config(constraint=ConstraintConfig(limit=0.0)), tmp_path)
    reward_model = reward_model_from(parts.policy, parts.tokenizer, torch.Generator().manual_seed(1))
    reward_model.config.reward_mean, reward_model.config.reward_std = [1.0, -2.0, 0.5], [2.0, 0.5, 4.0]
    scores = score_trees(reward_model, [Tree.of([5, 6, 7], [[8, 9]])], LayoutConfig())[0]
    parts.cfg.weights = AxisWeights(helpful=1.0, honest=0.5, harmless=2.0)
    critic = critic_from(reward_model, critic_weights(parts.cfg, parts.scorer))
    hidden = critic.backbone(torch.tensor([[5, 6, 7, 8, 9]])).last_hidden_state[0, -1]
    torch.testing.assert_close(critic.value_head(hidden), torch.stack([scores[0] + 0.5 * scores[1], -scores[2]]))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_responses_in_one_tree_teach_what_they_teach_apart(algorithm: str, llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(algorithm=algorithm), tmp_path)
    found, gradients = parts.experience(parts.rollout()), []
    for tree in (True, False):
        batch = found.collate(range(4), LayoutConfig(bin_tokens=64, tree=tree), parts.cfg.kind.aggregation, 6)
        batch |= {"first": torch.tensor(False), "kl_coef": torch.tensor(0.1)}
        parts.model.zero_grad()
        parts.loss(batch).backward()
        gradients.append([p.grad.clone() for p in parts.model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "dr_grpo"])
def test_micro_batches_add_up_to_the_step(aggregation: str, llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(aggregation=aggregation), tmp_path)
    whole = next(iter(parts.batches()))
    micro = [batch for batch, _ in zip(parts.batches(accumulation=4), range(4), strict=False)]
    units = torch.stack([batch["units"] for batch in micro]).sum(0)
    torch.testing.assert_close(units, whole["units"])
    losses = [parts.objective(parts.model, batch, units)[0] for batch in micro]
    torch.testing.assert_close(sum(losses), parts.loss(whole), atol=1e-5, rtol=0)


class Doubting(HFSampler):
    """Believes its samples half as likely as they are."""

    def generate(self, *asked: Any) -> list[Sample]:
        found = super().generate(*asked)
        return [s._replace(logprobs=[x - math.log(2) for x in s.logprobs]) for s in found]


@pytest.mark.parametrize(("correction", "weight"), [("none", 1.0), ("token", 1.5), ("sequence", 0.0)])
def test_tokens_weigh_what_their_sampler_got_wrong(
    correction: str, weight: float, llama_folder: str, tmp_path: Path
) -> None:
    parts = Parts(llama_folder, config(sampler=SamplerConfig(correction=correction, cap=1.5)), tmp_path)
    parts.engine.sampler = Doubting(parts.engine.sampler.sampling)
    rollout = parts.rollout()
    batch = parts.experience(rollout).collate(range(4), LayoutConfig(), "token_mean", 6)
    assert batch["weight"].unique().tolist() == [weight]
    mismatch = sampler_mismatch(rollout.tokens["logprobs"], rollout.tokens["sampler_logprobs"], rollout.mask)
    assert mismatch["mean"] == pytest.approx(math.log(2), abs=1e-5)


def steps(batches: RLBatches, n: int | None = None) -> list[Batch]:
    """The batches of the next n steps, each told as taken."""
    taken = []
    for batch in batches:
        taken.append(batch)
        batches.objective(batches.engine.model, batch, batch["units"])
        batches.after_step(len(taken))
        if len(taken) == n:
            break
    return taken


@pytest.mark.parametrize("done", range(1, 8))
def test_a_loop_that_goes_on_from_any_step_sees_the_rest_of_the_whole(
    done: int, llama_folder: str, tmp_path: Path
) -> None:
    changing = config(score=ScoreConfig(normalise=True), constraint=ConstraintConfig(limit=0.0), kl=KLConfig(horizon=9))
    parts = Parts(llama_folder, changing, tmp_path)
    whole = parts.batches()
    expected = steps(whole)
    cut, gone_on = parts.batches(), parts.batches()
    steps(cut, done)
    state, file = cut.state_dict(), tmp_path / "experience.pt"
    cut.write(file)
    gone_on.load_state_dict(state, file)
    found = steps(gone_on)
    assert len(found) == len(expected) - done
    for ours, theirs in zip(found, expected[done:], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert gone_on.state_dict() == whole.state_dict()


def test_every_response_is_seen_once_an_epoch(parts: Parts) -> None:
    batches = steps(parts.batches())
    assert len(batches) == len(parts.batches()) == 2 * 2 * 2
    first, second = (torch.cat([batch["target"] for batch in epoch]) for epoch in (batches[:2], batches[2:4]))
    assert first.sort().values.tolist() == second.sort().values.tolist()


def test_a_rollout_is_closed_after_its_last_step_alone(llama: Parts) -> None:
    batches = llama.batches()
    steps(batches)
    assert [iteration for iteration, _ in llama.told] == [1, 2]
    assert batches.controls.kl.n_seen == 32


def test_an_update_that_went_far_enough_leaves_its_other_minibatches_out(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(max_update_kl=1e-9), tmp_path)
    batches, moved = parts.batches(), 0
    for _ in batches:
        moved += 1
        parts.objective.step_metrics = lambda kl=moved * 1e-7: {"policy/approx_kl": (kl, 1.0)}
        batches.after_step(moved)
    assert moved == 2 and [iteration for iteration, _ in parts.told] == [1, 2]


@pytest.mark.parametrize("algorithm", GROUPS)
def test_equal_scores_of_a_group_teach_exactly_nothing(algorithm: str, llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(algorithm=algorithm, whiten=False), tmp_path)
    rollout = parts.rollout()
    rollout.scores[:2] = torch.tensor([0.1, 0.2, 0.3])
    rollout.tokens["ref_logprobs"] = rollout.tokens["logprobs"]
    score = ScoreConfig(missing_end_penalty=0.0)
    parts.cfg.score = score
    advantages = parts.experience(rollout).advantages
    assert advantages[:2].eq(0).all() and advantages[2:].ne(0).any()


class Cycling:
    """Equal scores for the first `n` calls, then differing ones."""

    columns, weights = ("score",), {"score": 1.0}

    def __init__(self, n: int) -> None:
        self.left, self.asked = n, []

    def __call__(self, answers: Sequence[Answers]) -> Tensor:
        self.left, n = self.left - 1, sum(len(a.samples) for a in answers)
        self.asked.append(len(answers))
        return torch.arange(n, dtype=torch.float32)[:, None] * (self.left < 0)


@pytest.mark.parametrize(("equal", "asked"), [(0, [8]), (1, [8, 8]), (3, [8, 8, 8])])
def test_groups_of_equal_scores_are_replaced_so_many_times(
    equal: int, asked: list[int], llama_folder: str, tmp_path: Path
) -> None:
    parts = Parts(llama_folder, config(algorithm="grpo", refills=2), tmp_path)
    parts.engine.scorer = scorer = Cycling(equal)
    next(iter(parts.batches()))
    assert scorer.asked == asked


class Trading:
    """Two axes, one of which rises from response to response as the other falls."""

    columns, weights = ("helpful", "honest"), {"helpful": 1.0, "honest": 1.0}

    def __init__(self, helpful: float) -> None:
        self.helpful, self.asked = helpful, []

    def __call__(self, answers: Sequence[Answers]) -> Tensor:
        self.asked.append(len(answers))
        number = torch.arange(float(sum(len(a.samples) for a in answers)))
        return torch.stack([self.helpful * number, -number], dim=1)


@pytest.mark.parametrize(("helpful", "weights", "asked"), [(1.0, (2.0, 1.0), [8]), (2.0, (1.0, 2.0), [8, 8, 8])])
def test_a_group_is_equal_where_its_weighted_scores_are(
    helpful: float, weights: tuple[float, float], asked: list[int], llama_folder: str, tmp_path: Path
) -> None:
    given = AxisWeights(helpful=weights[0], honest=weights[1])
    parts = Parts(llama_folder, config(algorithm="grpo", refills=2, weights=given), tmp_path)
    parts.engine.scorer = scorer = Trading(helpful)
    next(iter(parts.batches()))
    assert scorer.asked == asked


def test_a_bootstrapped_critic_speaks_for_what_was_cut_off_alone(llama_folder: str, tmp_path: Path) -> None:
    standard = Parts(llama_folder, config(whiten=False), tmp_path)
    rollout = standard.rollout()
    rollout.end_values[:] = 1.0
    plain = standard.experience(rollout).advantages
    standard.cfg.bootstrap = True
    last = rollout.mask.long().cumsum(1).argmax(1)
    gained = (standard.experience(rollout).advantages - plain)[torch.arange(8), last]
    torch.testing.assert_close(gained, rollout.ended.logical_not().float())


def test_weights_move_linearly_and_a_held_axis_has_none() -> None:
    cfg = config(
        weights=AxisWeights(helpful=1.0, honest=2.0),
        final_weights=FinalWeights(helpful=3.0),
        constraint=ConstraintConfig(limit=0.1),
    )
    standing = {"helpful": 1.0, "honest": 1.0, "harmless": 1.0, "brevity": 0.5}
    assert cfg.column_weights(standing, 0.25) == {"helpful": 1.5, "honest": 2.0, "harmless": 0.0, "brevity": 0.5}


def test_scores_are_normalised_by_all_that_was_seen(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(score=ScoreConfig(normalise=True, clip=None, missing_end_penalty=0)), tmp_path)
    controls, rollout, seen = Controls.of(parts.cfg), parts.rollout(), []
    for shift in (0.0, 5.0):
        rollout.scores[:] = torch.randn(8, 3, generator=torch.Generator().manual_seed(int(shift))) + shift
        seen.append(rollout.scores.sum(1))
        found = parts.experience(rollout, controls).score
    everything = torch.cat(seen)
    torch.testing.assert_close(found, (seen[1] - everything.mean()) / everything.std(), atol=1e-5, rtol=1e-5)


def test_a_multiplier_grows_while_the_cost_is_above_its_limit(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(constraint=ConstraintConfig(limit=-100.0)), tmp_path)
    batches = parts.batches()
    steps(batches)
    assert batches.controls.lagrangian.multiplier > 1.0
    assert parts.told[0][1].returns.shape[-1] == 2


def test_the_kept_policy_is_the_one_that_the_referee_liked_best(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(evaluate_every=1, patience=1, rollouts=9), tmp_path)
    selection = selecting(parts, [0.0, 2.0, 1.0])
    weight, stops = parts.policy.get_input_embeddings().weight, []
    for iteration in range(3):
        with torch.no_grad():
            weight.fill_(float(iteration))
        stops.append(selection.look(iteration, 0.0, [torch.Generator()] * 4) is not None)
    assert selection.restore_best().startswith("kept the policy after rollout 1: referee 6")
    assert weight.unique().tolist() == [1.0]
    assert stops == [False, False, True]


def selecting(parts: Parts, likes: Sequence[float]) -> Selection:
    """A selection whose referee likes one look after the other so much."""
    left = iter(likes)

    class Referee:
        columns, weights = parts.scorer.columns, parts.scorer.weights

        def __call__(self, answers: Sequence[Answers]) -> Tensor:
            return torch.full((len(answers), 3), next(left))

    return Selection(parts.tmp_path, parts.engine, parts.questions, Referee(), parts.cfg, text=lambda s: str(s.ids))


def test_a_policy_above_the_limit_of_its_constraint_is_not_kept(llama_folder: str, tmp_path: Path) -> None:
    parts = Parts(llama_folder, config(evaluate_every=1, constraint=ConstraintConfig(limit=-math.inf)), tmp_path)
    selection = selecting(parts, [1.0])
    selection.look(0, 0.0, [torch.Generator()] * 4)
    assert selection.best is None and "cost" in selection.looks[0]


def test_a_minibatch_that_does_not_divide_the_rollout_is_refused(llama: Parts) -> None:
    llama.cfg.prompts = 6
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=8"):
        llama.batches()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"clip": 0.0}, "clip"),
        ({"rollouts": 0}, "rollouts"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"algorithm": "reinforce"}, "algorithm=reinforce: expected one of ppo"),
        ({"algorithm": "grpo", "samples": 1}, "samples=1"),
        ({"algorithm": "grpo", "bootstrap": True}, "no critic"),
        ({"refills": 1}, "refills"),
        ({"aggregation": "mean"}, "aggregation"),
    ],
)
def test_options_that_would_bias_or_break_the_loop_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**options)


def test_a_fault_on_one_process_is_raised_on_every_one() -> None:
    theirs: list[Any] = []
    there = Ranks(rank=1, world=2, gather=lambda own: theirs.append(own) or [[], own])
    with pytest.raises(NumericsError, match="prompt 1"):
        there.spread([0, 1], failing)
    here = Ranks(rank=0, world=2, gather=lambda own: [own, *theirs])
    with pytest.raises(NumericsError, match="prompt 1"):
        here.spread([0, 1], lambda part: list(part))


def failing(part: Sequence[int]) -> list[int]:
    raise NumericsError(f"prompt {part[0]}")


def test_a_process_without_a_prompt_answers_nothing(llama: Parts) -> None:
    assert llama.engine.collect([], 2, [], {}) == []
