"""Rows of rankings, their objective, and rankings made of samples."""

from __future__ import annotations

import random

import pytest
import torch

from models.chat import ChatFormat, Message
from models.errors import ConfigError, Origin
from models.layout import LayoutConfig
from models.loading import ModelConfig, load_policy
from models.scorer import reward_model_from
from reward.assessment import Scored, is_own_sample, of_sources, scored_pairs
from reward.rankings import Ranking
from reward.sampling import SAMPLED, Candidate, SamplingConfig, flipped_pairs, rank, with_noise
from reward.training import RankingObjective, RankingRows, RewardLoss

PROMPT = (Message("user", "what is the capital of peru ?"),)


def ranking(*scores: tuple[float | None, float | None, float | None], sources: tuple[str, ...] = ()) -> Ranking:
    texts = tuple(f"answer {i} is lima ." + " no" * i for i in range(len(scores)))
    return Ranking(PROMPT, texts, scores, sources or ("",) * len(scores), Origin("made", 1))


RANKINGS = [
    ranking((1.0, 1.0, 1.0), (0.5, None, 0.0), (0.0, 0.0, None)),
    ranking((0.0, None, 1.0), (1.0, None, 1.0)),
    ranking((0.2, 0.1, None), (0.2, 0.4, None), (0.9, 0.4, None), (0.1, 0.0, None)),
]


@pytest.fixture(scope="module")
def chat_and_model(llama_folder: str):
    policy, tokenizer = load_policy(llama_folder, ModelConfig(path=llama_folder))
    return ChatFormat(tokenizer), reward_model_from(policy, tokenizer, torch.Generator().manual_seed(0))


def test_units_count_the_prompts_with_a_strict_pair_on_each_axis(chat_and_model) -> None:
    chat, _ = chat_and_model
    rows = RankingRows(RANKINGS, chat, LayoutConfig(), 256)
    # helpful: all three; honest: the first and the third (the second is unlabelled); harmless: the first alone
    assert rows.collate(range(3))["units"].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("tree", [True, False])
def test_losses_of_micro_batches_add_up_to_the_loss_of_the_step(chat_and_model, tree: bool) -> None:
    chat, model = chat_and_model
    objective = RankingObjective(RewardLoss())
    rows = RankingRows(RANKINGS, chat, LayoutConfig(tree=tree), 256)
    whole = rows.collate(range(3))
    expected, _ = objective(model, whole, whole["units"])
    parts = [objective(model, rows.collate([i]), whole["units"])[0] for i in range(3)]
    torch.testing.assert_close(sum(parts), expected)


def test_the_tree_and_separate_rows_train_alike(chat_and_model) -> None:
    chat, model = chat_and_model
    gradients = []
    for tree in (True, False):
        batch = RankingRows(RANKINGS, chat, LayoutConfig(tree=tree), 256).collate(range(3))
        model.zero_grad()
        RankingObjective(RewardLoss())(model, batch, batch["units"])[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_an_axis_of_weight_zero_teaches_nothing(chat_and_model) -> None:
    chat, model = chat_and_model
    batch = RankingRows(RANKINGS, chat, LayoutConfig(), 256).collate(range(3))
    model.zero_grad()
    RankingObjective(RewardLoss(center=0.0, honest=0.0))(model, batch, batch["units"])[0].backward()
    assert model.score.weight.grad[1].abs().max() == 0
    assert model.score.weight.grad[0].abs().max() > 0


VOTED = Ranking(
    PROMPT,
    ("lima .", "i do not know ."),
    ((0.75, None, None), (0.25, None, None)),
    ("", ""),
    Origin("made", 2),
    (((1.0, None, None), (0.0, None, None)), ((0.5, None, None), (0.5, None, None))),
)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "regression"},
        {"margin": 1.0},
        {"label_smoothing": 0.1},
        {"ties": "half"},
        {"center": 0.0},
        {"helpful": 3.0},
    ],
)
def test_every_option_of_the_loss_changes_it_and_its_gradient(chat_and_model, changed: dict[str, object]) -> None:
    chat, model = chat_and_model
    found = []
    for cfg in (RewardLoss(), RewardLoss(**changed)):
        batch = RankingRows([*RANKINGS, VOTED], chat, LayoutConfig(), 256, cfg).collate(range(4))
        model.zero_grad()
        loss, _ = RankingObjective(cfg)(model, batch, batch["units"])
        loss.backward()
        found.append((loss.item(), model.score.weight.grad.clone()))
    assert abs(found[0][0] - found[1][0]) > 1e-4 and not torch.allclose(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["pairs", "plackett_luce", "regression"])
def test_whatever_the_loss_micro_batches_add_up_and_judges_may_differ_in_number(chat_and_model, name: str) -> None:
    chat, model = chat_and_model
    cfg = RewardLoss(name=name)
    rankings = [RANKINGS[1], VOTED] if name != "plackett_luce" else [untied(RANKINGS[0]), VOTED]
    rows = RankingRows(rankings, chat, LayoutConfig(), 256, cfg)
    whole = rows.collate(range(2))
    expected, _ = RankingObjective(cfg)(model, whole, whole["units"])
    parts = [RankingObjective(cfg)(model, rows.collate([i]), whole["units"])[0] for i in range(2)]
    torch.testing.assert_close(sum(parts), expected)


def untied(found: Ranking) -> Ranking:
    return ranking(*(tuple(None if x is None else x + 0.01 * k for x in s) for k, s in enumerate(found.scores)))


def test_votes_pull_less_than_one_judge_of_the_same_order(chat_and_model) -> None:
    chat, model = chat_and_model
    pulls = []
    for made in (VOTED, Ranking(*(getattr(VOTED, f) for f in ("prompt", "responses", "scores", "sources", "origin")))):
        batch = RankingRows([made], chat, LayoutConfig(), 256).collate([0])
        model.zero_grad()
        RankingObjective(RewardLoss(center=0.0))(model, batch, batch["units"])[0].backward()
        pulls.append(float(model.score.weight.grad.norm()))
    # one of two votes and half of a tie: the share is 3/4, so the pull is sg(d) - 3/4 in place of sg(d) - 1
    assert pulls[0] < pulls[1]


def test_responses_that_are_alike_once_cut_count_as_one(chat_and_model) -> None:
    chat, _ = chat_and_model
    long = "the key to the library " * 20
    cut = Ranking(PROMPT, (long + "one", "lima .", long + "two"), ((3.0,) * 3, (0.0,) * 3, (1.0,) * 3), ("a", "b", "c"),
                  Origin("made", 1))  # fmt: skip
    rows = RankingRows([cut], chat, LayoutConfig(), 64)
    assert rows.rankings[0].scores == ((2.0,) * 3, (0.0,) * 3) and rows.rankings[0].sources == ("a", "b")
    assert len(rows.trees[0].responses) == 2 and rows.n_alike == 0


def scored(ranking: Ranking, *scores: tuple[float, float, float]) -> Scored:
    return Scored(ranking, torch.tensor(scores), torch.ones(len(scores)))


def test_accuracy_counts_each_prompt_once_and_ties_half() -> None:
    made = [scored(RANKINGS[0], (2, 0, 1), (1, 0, 1), (0, 0, 0)), scored(RANKINGS[1], (1, 0, 0), (1, 0, 0))]
    right = []
    for axis in range(3):
        pairs = scored_pairs(made, axis)
        right.append(pairs.by_prompt(pairs.right()))
    assert right == [[1.0, 0.5], [0.5], [0.5]]


def test_own_samples_are_judged_apart() -> None:
    mixed = ranking((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), sources=(SAMPLED, "wrong", SAMPLED))
    made = [scored(mixed, (1, 1, 1), (9, 9, 9), (0, 0, 0))]
    assert of_sources(made, scored_pairs(made, 0), is_own_sample).right().tolist() == [1.0]


def test_equal_texts_count_once_and_prompts_without_a_difference_are_left_out() -> None:
    offered = [[Candidate("a", SAMPLED), Candidate("a", "right"), Candidate("b", SAMPLED)], [Candidate("c", SAMPLED)]]
    made = rank([PROMPT, PROMPT], offered, lambda i, c: (float(c.text == "a"), 1.0, 1.0))
    assert [r.responses for r in made] == [("a", "b")]
    assert made[0].sources == (SAMPLED, SAMPLED)


def test_noise_replaces_a_tenth_of_the_judgements_by_a_siblings() -> None:
    clean = [ranking((1.0, 0.9, 0.8), (0.5, 0.4, 0.3), (0.2, 0.1, 0.0))] * 200
    noisy = with_noise(clean, 0.1, random.Random(0))
    changed = 0
    for before, after in zip(clean, noisy, strict=True):
        for old, new in zip(zip(*before.scores, strict=True), zip(*after.scores, strict=True), strict=True):
            assert set(new) <= set(old)
            changed += sum(a != b for a, b in zip(old, new, strict=True))
    assert 0.08 < changed / 1800 < 0.12
    # A wrong judgement ties one of its two pairs, and turns the other where it is an end of the ranking: 2 · .1 · 2/3.
    assert 0.11 < flipped_pairs(clean, noisy) < 0.16
    assert with_noise(clean, 0.0, random.Random(0)) == clean


@pytest.mark.parametrize(("option", "value"), [("noise", 0.5), ("samples", 0), ("temperature", 0.0), ("prompts", 0)])
def test_sampling_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        SamplingConfig(**{option: value})
