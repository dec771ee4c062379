"""Claims about ensembles of reward models, and about what their disagreement says."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_models_scorer import LAYOUT, made, trees_of
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evals.discrimination import auroc
from models.chat import ChatFormat, Message
from models.errors import ArtifactError, ConfigError
from models.layout import LayoutConfig
from models.scorer import AxisWeights, score_trees
from reward.ensemble import EnsembleConfig, Replies, RewardEnsemble, RewardModel
from reward.margins import pair_margins

Member = tuple[PreTrainedModel, PreTrainedTokenizerBase]
ASKED = [
    Replies((Message("user", "what is the capital of peru ?"),), ["lima .", "i do not know ."]),
    Replies((Message("user", "how ?"),), ["the key . " * 3]),
]


@pytest.fixture(scope="module")
def members(llama_folder: str) -> list[Member]:
    return [made(llama_folder, seed) for seed in (0, 1, 2)]


def read_as_one(members: list[Member], layout: LayoutConfig = LAYOUT, **options: object) -> RewardEnsemble:
    return RewardEnsemble([RewardModel(*member, layout) for member in members], EnsembleConfig(**options))


@pytest.mark.parametrize("combine", ["mean", "worst", "cautious", "lower_bound"])
def test_one_model_read_as_an_ensemble_is_that_model(members: list[Member], combine: str) -> None:
    model, tokenizer = members[0]
    trees = trees_of(tokenizer)
    alone = read_as_one(members[:1], combine=combine)
    torch.testing.assert_close(alone(trees), score_trees(model, trees, LAYOUT))


def test_a_call_on_trees_combines_the_members_axis_by_axis(members: list[Member]) -> None:
    trees = trees_of(members[0][1])
    each = torch.stack([score_trees(model, trees, LAYOUT) for model, _ in members])
    torch.testing.assert_close(read_as_one(members)(trees), (each[0] + each[1] + each[2]) / 3)
    worst = read_as_one(members, combine="worst")(trees)
    assert worst.shape == each.shape[1:] and torch.equal(worst, each.min(0).values)
    variance = ((each - each.mean(0)) ** 2).mean(0)
    cautious = read_as_one(members, combine="cautious", uncertainty_coef=0.5)(trees)
    torch.testing.assert_close(cautious, each.mean(0) - 0.5 * variance)
    bound = read_as_one(members, combine="lower_bound", uncertainty_coef=0.5)(trees)
    torch.testing.assert_close(bound, each.mean(0) - 0.5 * variance.sqrt())


@pytest.mark.parametrize("tree", [True, False])
def test_texts_score_as_their_trees(members: list[Member], tree: bool) -> None:
    model, tokenizer = members[0]
    trees = trees_of(tokenizer)
    chat = ChatFormat(tokenizer)
    judges = read_as_one(members[:1], LayoutConfig(bin_tokens=32, tree=tree))
    got = judges.each(ASKED)[0]
    assert [chat.response(text) for text in ASKED[0].texts] == trees[0].responses
    torch.testing.assert_close(got[:2], score_trees(model, trees[:1], LAYOUT), atol=1e-5, rtol=0)


def test_members_of_other_tokenizers_read_texts_and_refuse_trees(members: list[Member], qwen2_folder: str) -> None:
    mixed = read_as_one([members[0], made(qwen2_folder)])
    assert mixed.each(ASKED).shape == (2, 3, 3)
    with pytest.raises(ArtifactError, match="tokenizer"):
        mixed(trees_of(members[0][1]))


def test_what_a_member_cannot_see_is_told(members: list[Member]) -> None:
    longest = Replies((Message("user", "what is " * 200),), ["lima .", "no ."])
    judges = read_as_one(members[:2])
    assert judges.cuts([*ASKED, longest]) == [False, False, False, True, True]
    assert judges.each([longest]).isfinite().all()


def test_the_overall_score_is_the_mean_by_weights(members: list[Member]) -> None:
    judges = read_as_one(members, weights=AxisWeights(helpful=2.0, honest=1.0, harmless=0.0))
    assert judges.overall(torch.tensor([[3.0, 6.0, 100.0]])).tolist() == [4.0]


def test_members_with_other_axes_are_no_ensemble(members: list[Member]) -> None:
    other = copy.deepcopy(members[1])
    other[0].config.id2label = {0: "helpful", 1: "harmless", 2: "honest"}
    with pytest.raises(ArtifactError, match="same axes"):
        read_as_one([members[0], other])


@pytest.mark.parametrize("weights", [{"helpful": -1.0}, {"helpful": 0.0, "honest": 0.0, "harmless": 0.0}])
def test_weights_that_weigh_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        EnsembleConfig(weights=AxisWeights(**weights))


@pytest.mark.parametrize("options", [{"combine": "median"}, {"uncertainty_coef": -0.1}])
def test_a_way_to_combine_is_one_that_there_is(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        EnsembleConfig(**options)


def test_margins_by_hand() -> None:
    """Two members, one ranking of three responses and one that nobody judged; harmless has no label."""
    each = torch.tensor([[1.0, 0.0, 2.0, 9.0], [3.0, 4.0, 0.0, 9.0]])[..., None].expand(2, 4, 3)
    labels = [[(2.0, 1.0, None), (1.0, 1.0, None), (0.0, None, None)], [(None, None, None)]]
    margins = pair_margins(each, each.mean(0), labels)
    assert list(margins) == ["helpful"]  # on honest the two known labels tie
    found = margins["helpful"]
    assert found.members.tolist() == [[1.0, -1.0, -2.0], [-1.0, 3.0, 4.0]]  # 0 > 1, 0 > 2, 1 > 2
    assert found.combined.tolist() == [0.0, 1.0, 1.0] and found.wrong.tolist() == [True, False, False]
    assert found.row.tolist() == [0, 0, 0]
    assert found.doubts["spread"].tolist() == [1.0, 2.0, 3.0]
    assert found.doubts["closeness"].tolist() == [0.0, -1.0, -1.0]
    assert found.doubts["disagreement"].tolist() == pytest.approx([1.0, 2 / 3, 3 / 4])


def test_members_that_all_tie_are_in_full_doubt() -> None:
    margins = pair_margins(torch.ones(2, 2, 3), torch.ones(2, 3), [[(1.0, None, None), (0.0, None, None)]])
    assert margins["helpful"].doubts["disagreement"].tolist() == [1.0]


values = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    above, below = [x for x, kind in rows if kind], [x for x, kind in rows if not kind]
    found = auroc([x for x, _ in rows], [kind for _, kind in rows], range(len(rows)), n=20)
    if not above or not below:
        assert found is None
        return
    share = sum((a > b) + 0.5 * (a == b) for a in above for b in below) / (len(above) * len(below))
    assert found is not None and found.mean == pytest.approx(share)
    assert found.low <= found.mean <= found.high


def test_the_interval_of_auroc_resamples_whole_groups() -> None:
    """Forty copies of one prompt say no more than one."""
    scores, wrong = [0.1, 0.4, 0.2, 0.9, 0.3, 0.6], [False, True, False, True, True, False]
    once = auroc(scores, wrong, range(6))
    copies = auroc(scores * 40, wrong * 40, list(range(6)) * 40)
    assert once is not None and copies is not None
    assert (once.mean, once.low, once.high) == pytest.approx((copies.mean, copies.low, copies.high))
