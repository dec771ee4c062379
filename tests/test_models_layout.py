"""Claims about the batch layout: a packed prompt tree is its responses in rows of their own, in value and gradient."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from models.errors import ConfigError
from models.layout import Batch, LayoutConfig, Tree, attention_mask, collate, fit, pack, packed, separate
from models.logprobs import per_response, response_lengths, token_logprobs

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
IDS = st.lists(st.integers(3, 250), min_size=1, max_size=7)


@st.composite
def some_trees(draw: st.DrawFn) -> list[Tree]:
    """Up to four trees of one to three responses; some prompts are empty, some tokens are no targets."""
    trees = []
    for _ in range(draw(st.integers(1, 4))):
        prompt = draw(st.lists(st.integers(3, 250), max_size=6))
        responses = draw(st.lists(IDS, min_size=1, max_size=3))
        trees.append(Tree(prompt, responses, [[draw(st.booleans()) for _ in r] for r in responses]))
    return trees


def fixed_trees() -> list[Tree]:
    rng = random.Random(1)

    def ids(n: int) -> list[int]:
        return [rng.randrange(3, 250) for _ in range(n)]

    sizes = [(5, (3, 4)), (1, (6,)), (9, (2, 2, 7)), (12, (1, 5)), (3, (8, 1))]
    return [Tree.of(ids(p), [ids(r) for r in responses]) for p, responses in sizes]


def plain_logprobs(model: PreTrainedModel, tree: Tree) -> list[Tensor]:
    """Log-probabilities of each response's targets: one row at a time, no mask, no positions, the whole vocabulary."""
    found = []
    for response, targets in zip(tree.responses, tree.targets, strict=True):
        ids = torch.tensor([tree.prompt + response])
        table = model(input_ids=ids).logits[0].log_softmax(-1)
        n = len(tree.prompt)
        wanted = [n + i for i, target in enumerate(targets) if target and n + i > 0]
        found.append(torch.stack([table[at - 1, ids[0, at]] for at in wanted]) if wanted else torch.zeros(0))
    return found


def loaded(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_response(values: Tensor, batch: Batch) -> list[Tensor]:
    return [values[batch["response"] == r] for r in range(len(batch["ends"]))]


# --- packing ----------------------------------------------------------------------------------------------------------


@given(LENGTHS, st.integers(1, 60))
def test_every_row_is_packed_once_and_only_a_row_over_the_capacity_overflows_alone(
    lengths: list[int], capacity: int
) -> None:
    bins = pack(lengths, capacity)
    assert sorted(i for rows in bins for i in rows) == list(range(len(lengths)))
    for rows in bins:
        assert len(rows) == 1 or sum(lengths[i] for i in rows) <= capacity


@given(LENGTHS, st.integers(40, 60))
def test_bins_hold_every_row_in_no_more_positions_than_at_their_widest(lengths: list[int], bin_tokens: int) -> None:
    bins, width = packed(lengths, bin_tokens)
    assert sorted(i for rows in bins for i in rows) == list(range(len(lengths)))
    assert width == max(sum(lengths[i] for i in rows) for rows in bins) <= max(bin_tokens, *lengths, 0)
    widest = pack(lengths, max(bin_tokens, *lengths, 0))
    assert len(bins) * width <= len(widest) * max(sum(lengths[i] for i in rows) for rows in widest)


def test_two_short_rows_do_not_widen_the_bins_of_long_ones() -> None:
    assert packed([69] * 14 + [60, 61], bin_tokens=128)[1] == 69


@given(LENGTHS, st.integers(40, 60))
def test_no_two_bins_would_fit_into_one(lengths: list[int], capacity: int) -> None:
    fill = sorted(sum(lengths[i] for i in rows) for rows in pack(lengths, capacity))
    assert len(fill) == 1 or fill[0] + fill[1] > capacity


def test_best_fit_decreasing_by_hand() -> None:
    # 7 and 6 open bins with room 3 and 4; 4 goes where it fits tightest (room 4), 3 into the first, 2 opens a third.
    assert pack([2, 3, 4, 6, 7], 10) == [[4, 1], [3, 2], [0]]


# --- the planes -------------------------------------------------------------------------------------------------------


def test_a_tree_of_two_by_hand() -> None:
    batch = collate([Tree.of([11, 12], [[21, 22], [31]])], bin_tokens=8, pad_id=9)
    assert batch["input_ids"].tolist() == [[11, 12, 21, 22, 31]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2]]
    assert batch["segment"].tolist() == [[1, 1, 1, 1, 1]]
    assert batch["branch"].tolist() == [[0, 0, 1, 1, 2]]
    assert batch["source"].tolist() == [1, 2, 1]  # both first tokens are predicted by the prompt's last
    assert batch["target"].tolist() == [21, 22, 31]
    assert batch["response"].tolist() == [0, 0, 1]
    assert batch["ends"].tolist() == [3, 4]
    assert batch["tree"].tolist() == [0, 0]


def test_the_mask_of_a_tree_of_two_by_hand() -> None:
    batch = collate([Tree.of([11, 12], [[21, 22], [31]]), Tree.of([13, 14], [[41, 42]])], bin_tokens=5)
    assert attention_mask(batch)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert attention_mask(batch)[1, 0, :4, :4].tolist() == torch.ones(4, 4).tril().bool().tolist()


def test_rows_of_one_bin_do_not_see_each_other() -> None:
    batch = collate([Tree.of([5], [[6, 7]]), Tree.of([8], [[9]])], bin_tokens=8)
    assert batch["segment"].tolist() == [[1, 1, 1, 2, 2]]
    assert not attention_mask(batch)[0, 0, 3:, :3].any() and not attention_mask(batch)[0, 0, :3, 3:].any()


@given(some_trees(), st.integers(8, 40))
def test_the_mask_is_that_of_the_definition(trees: list[Tree], bin_tokens: int) -> None:
    batch = collate(trees, bin_tokens=bin_tokens)
    segment, branch, mask = batch["segment"], batch["branch"], attention_mask(batch)
    for b in range(segment.shape[0]):
        for i in range(segment.shape[1]):
            for j in range(segment.shape[1]):
                own = segment[b, i] == segment[b, j] and branch[b, j] in (0, branch[b, i])
                assert mask[b, 0, i, j] == bool(j <= i and own)


@given(some_trees(), st.integers(8, 40))
def test_no_position_sees_nothing(trees: list[Tree], bin_tokens: int) -> None:
    """A softmax over nothing is NaN, on padding too, and would spread from there."""
    assert attention_mask(collate(trees, bin_tokens=bin_tokens)).any(-1).all()


@given(some_trees(), st.integers(8, 40))
def test_each_response_reads_from_the_planes_as_it_was_given(trees: list[Tree], bin_tokens: int) -> None:
    batch = collate(trees, bin_tokens=bin_tokens)
    ids, mask = batch["input_ids"].flatten(), attention_mask(batch)[:, 0]
    width = batch["input_ids"].shape[1]
    positions = batch["position_ids"].flatten()
    wanted = [(t, k) for t, tree in enumerate(trees) for k in range(len(tree.responses))]
    assert batch["tree"].tolist() == [t for t, _ in wanted]
    for r, (t, k) in enumerate(wanted):
        b, end = divmod(int(batch["ends"][r]), width)
        seen = mask[b, end].nonzero().squeeze(-1) + b * width
        assert ids[seen].tolist() == trees[t].prompt + trees[t].responses[k]
        assert positions[seen].tolist() == list(range(len(seen)))


@given(some_trees(), st.integers(8, 40))
def test_targets_come_in_order_each_from_the_position_before_it(trees: list[Tree], bin_tokens: int) -> None:
    batch = collate(trees, bin_tokens=bin_tokens)
    r, n_targets = 0, 0
    for tree in trees:
        for response, targets in zip(tree.responses, tree.targets, strict=True):
            first = 0 if tree.prompt else 1  # nothing stands before the first token of all, so nothing predicts it
            wanted = [i for i, target in enumerate(targets) if target and i >= first]
            mine = batch["response"] == r
            assert batch["target"][mine].tolist() == [response[i] for i in wanted]
            before = batch["input_ids"].flatten()[batch["source"][mine]].tolist()
            assert before == [response[i - 1] if i else tree.prompt[-1] for i in wanted]
            r, n_targets = r + 1, n_targets + len(wanted)
    assert len(batch["target"]) == n_targets and batch["response"].tolist() == sorted(batch["response"].tolist())


def test_turns_of_the_user_inside_a_response_are_seen_and_not_learnt() -> None:
    batch = collate([Tree([1], [[2, 3, 4, 5]], [[True, False, False, True]])], bin_tokens=8)
    assert batch["target"].tolist() == [2, 5] and batch["source"].tolist() == [0, 3]
    assert attention_mask(batch)[0, 0, 4].all()
    assert response_lengths(batch).tolist() == [2.0]


def test_bins_are_no_wider_than_what_they_hold() -> None:
    assert collate([Tree.of([1], [[2]])], bin_tokens=64)["input_ids"].shape == (1, 2)


def test_a_row_over_the_bin_keeps_all_its_tokens() -> None:
    batch = collate([Tree.of([1], [list(range(2, 40))]), Tree.of([1], [[2]])], bin_tokens=8)
    assert batch["input_ids"].ne(0).sum() == 39 + 2


def test_per_response_sums_by_response_and_counts_one_without_targets() -> None:
    batch = collate([Tree([1], [[2, 3], [4], [5]], [[True, True], [False], [True]])], bin_tokens=8)
    assert per_response(torch.tensor([1.0, 2.0, 4.0]), batch).tolist() == [3.0, 0.0, 4.0]


# --- equal to separate rows, for each shape of model ------------------------------------------------------------------


def test_a_packed_tree_has_the_logprobs_of_plain_rows(any_folder: str) -> None:
    model, trees = loaded(any_folder), fixed_trees()
    batch = collate(trees, bin_tokens=32)
    got = by_response(token_logprobs(model, batch).logprobs, batch)
    want = [values for tree in trees for values in plain_logprobs(model, tree)]
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_packed_tree_has_the_gradients_of_plain_rows(any_folder: str) -> None:
    model, trees = loaded(any_folder), fixed_trees()
    batch = collate(trees, bin_tokens=32)
    packed = token_logprobs(model, batch).logprobs
    weights = torch.linspace(-1, 1, len(packed))
    ours = gradients(model, (packed * weights).mean())
    plain = torch.cat([values for tree in trees for values in plain_logprobs(model, tree)])
    theirs = gradients(model, (plain * weights).mean())
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_siblings_change_nothing(llama_folder: str) -> None:
    model, tree = loaded(llama_folder), Tree.of([4, 5, 6], [[7, 8], [9, 10, 11], [12]])
    together = token_logprobs(model, collate([tree], bin_tokens=8)).logprobs
    apart = token_logprobs(model, collate(separate(tree), bin_tokens=8)).logprobs
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bin_tokens", [8, 16, 200])
def test_padding_and_packing_change_nothing(any_folder: str, bin_tokens: int) -> None:
    model, trees = loaded(any_folder), fixed_trees()
    with torch.no_grad():
        want = token_logprobs(model, collate(trees, bin_tokens=64)).logprobs
        for pad_id in (0, 1, 77):
            batch = collate(trees, bin_tokens=bin_tokens, pad_id=pad_id)
            torch.testing.assert_close(token_logprobs(model, batch).logprobs, want, atol=1e-5, rtol=0)


def test_the_order_of_rows_changes_nothing(any_folder: str) -> None:
    model, trees = loaded(any_folder), fixed_trees()
    order = [3, 0, 4, 2, 1]
    with torch.no_grad():
        batch, shuffled = collate(trees, bin_tokens=32), collate([trees[i] for i in order], bin_tokens=32)
        want = per_response(token_logprobs(model, batch).logprobs, batch)
        got = per_response(token_logprobs(model, shuffled).logprobs, shuffled)
    for place, i in enumerate(order):
        torch.testing.assert_close(got[shuffled["tree"] == place], want[batch["tree"] == i], atol=1e-5, rtol=0)


def test_an_empty_prompt_leaves_its_first_token_unscored(llama_folder: str) -> None:
    model, tree = loaded(llama_folder), Tree.of([], [[5, 6, 7]])
    batch = collate([tree], bin_tokens=8)
    assert batch["target"].tolist() == [6, 7]
    torch.testing.assert_close(token_logprobs(model, batch).logprobs, plain_logprobs(model, tree)[0], atol=1e-5, rtol=0)


# --- fitting into a length --------------------------------------------------------------------------------------------


def test_a_tree_that_fits_is_left_alone() -> None:
    tree = Tree.of(list(range(6)), [[1, 2], [3, 4, 5, 6]])
    assert fit(tree, 10) == tree


def test_a_long_prompt_loses_its_beginning_as_far_as_the_response_needs() -> None:
    fitted = fit(Tree.of(list(range(20)), [[1, 2, 3]]), 10)
    assert fitted == Tree.of(list(range(13, 20)), [[1, 2, 3]])


def test_a_prompt_keeps_half_of_the_room_and_the_response_loses_its_end() -> None:
    fitted = fit(Tree.of(list(range(20)), [list(range(30, 50))]), 10)
    assert fitted == Tree.of(list(range(15, 20)), [list(range(30, 35))])


def test_responses_of_a_tree_keep_one_common_prompt() -> None:
    fitted = fit(Tree.of(list(range(20)), [[1, 2], [3, 4, 5, 6]]), 10)
    assert fitted == Tree.of(list(range(14, 20)), [[1, 2], [3, 4, 5, 6]])


def test_a_long_prompt_is_dropped_where_the_policy_says_so() -> None:
    assert fit(Tree.of(list(range(20)), [[1, 2, 3]]), 10, "drop") is None
    assert fit(Tree.of(list(range(7)), [[1, 2, 3]]), 10, "drop") is not None


def test_a_row_that_keeps_no_target_is_dropped() -> None:
    late = [False] * 9 + [True]
    assert fit(Tree([1, 2], [list(range(10))], [late]), 8) is None
    assert fit(Tree([1, 2], [list(range(10)), [3]], [late, [True]]), 8) is None


@given(some_trees(), st.integers(8, 20))
def test_what_fits_is_within_the_length_and_a_suffix_and_prefixes(trees: list[Tree], max_length: int) -> None:
    for tree in trees:
        fitted = fit(tree, max_length)
        if fitted is None:
            continue
        assert all(len(fitted.prompt) + len(r) <= max_length for r in fitted.responses)
        assert tree.prompt[len(tree.prompt) - len(fitted.prompt) :] == fitted.prompt
        for before, after, targets in zip(tree.responses, fitted.responses, fitted.targets, strict=True):
            assert before[: len(after)] == after and len(after) == len(targets) and any(targets)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_length": 7}, "layout.max_length=7"),
        ({"bin_tokens": 0}, "layout.bin_tokens=0"),
        ({"long_prompt": "keep"}, "layout.long_prompt=keep"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LayoutConfig(**options)
