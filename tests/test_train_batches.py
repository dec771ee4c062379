"""Claims about the order of rows: a function of the seed alone, whoever computes it and wherever one starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataError
from models.layout import Batch
from train.batches import Share, ShuffledBatches, StreamedBatches, in_sequence, steps_per_pass


class Numbered:
    """Rows that collate to their own numbers."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def collate(self, indices: Sequence[int]) -> Batch:
        return {"rows": torch.tensor(list(indices))}


def batches(n: int, share: Share, **options: object) -> ShuffledBatches:
    return ShuffledBatches(Numbered(n), share, **{"steps": 7, "seed": 0, **options})


def micro_batches(found: ShuffledBatches) -> list[list[int]]:
    return [batch["rows"].tolist() for batch in found]


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 40))


@given(SIZES, st.integers(0, 2**31), st.integers(1, 12))
def test_any_processes_and_accumulation_see_the_rows_of_one(
    sizes: tuple[int, int, int, int], seed: int, steps: int
) -> None:
    world, accumulation, per_micro, more = sizes
    batch_size = world * accumulation * per_micro
    n = batch_size + more
    alone = micro_batches(batches(n, Share(batch_size), steps=steps, seed=seed))
    together: list[list[int]] = [[] for _ in range(steps)]
    for rank in range(world):
        mine = micro_batches(batches(n, Share(batch_size, accumulation, rank, world), steps=steps, seed=seed))
        assert len(mine) == steps * accumulation and {len(rows) for rows in mine} == {per_micro}
        for number, rows in enumerate(mine):
            together[number // accumulation] += rows
    assert [sorted(rows) for rows in together] == [sorted(rows) for rows in alone]


@given(st.integers(2, 30), st.integers(0, 12), st.integers(0, 2**31), st.integers(1, 3))
def test_starting_at_a_step_gives_the_tail_of_the_whole(n: int, start: int, seed: int, accumulation: int) -> None:
    share = Share(2 * accumulation, accumulation)
    whole, tail = (batches(max(n, 6), share, steps=12, seed=seed) for _ in range(2))
    tail.start_step = start
    assert micro_batches(tail) == micro_batches(whole)[start * accumulation :]


@given(st.integers(1, 8), st.integers(0, 20), st.integers(0, 2**31))
def test_each_pass_takes_every_row_at_most_once_and_leaves_out_less_than_a_batch(
    batch_size: int, more: int, seed: int
) -> None:
    n = batch_size + more
    per_pass = steps_per_pass(n, batch_size)
    found = micro_batches(batches(n, Share(batch_size), steps=2 * per_pass, seed=seed))
    for first in (0, per_pass):
        seen = Counter(row for rows in found[first : first + per_pass] for row in rows)
        assert set(seen.values()) == {1} and 0 <= n - len(seen) < batch_size


def test_passes_are_shuffled_differently_and_so_are_seeds() -> None:
    found = micro_batches(batches(64, Share(64), steps=3))
    assert all(sorted(rows) == list(range(64)) for rows in found)
    assert len({tuple(rows) for rows in found}) == 3
    assert micro_batches(batches(64, Share(64), steps=1, seed=1)) != found[:1]


def test_no_pass_of_one_seed_is_a_pass_of_its_neighbours() -> None:
    orders = [tuple(r) for seed in range(5) for r in micro_batches(batches(40, Share(40), steps=5, seed=seed))]
    assert len(set(orders)) == 25


def test_without_shuffling_rows_come_as_they_stand_in_every_pass() -> None:
    assert micro_batches(batches(5, Share(2), steps=4, shuffle=False)) == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_the_order_does_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    one = micro_batches(batches(20, Share(4)))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert micro_batches(batches(20, Share(4))) == one
    assert torch.equal(torch.get_rng_state(), state)


def test_reading_twice_gives_the_same() -> None:
    found = batches(20, Share(4))
    assert micro_batches(found) == micro_batches(found)


def test_the_length_counts_micro_batches_of_all_steps() -> None:
    assert len(batches(20, Share(4, 2))) == 14 == len(micro_batches(batches(20, Share(4, 2))))


@pytest.mark.parametrize(("batch_size", "accumulation", "world"), [(8, 3, 1), (8, 1, 3), (8, 4, 4), (2, 4, 1)])
def test_a_batch_that_does_not_divide_is_refused(batch_size: int, accumulation: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"trainer.batch_size={batch_size}: .*{world} × {accumulation}"):
        Share(batch_size, accumulation, 0, world)


def test_fewer_rows_than_a_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"3 rows are fewer than trainer\.batch_size=4"):
        batches(3, Share(4))


# --- one part after the other -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 20), st.integers(1, 200), st.integers())
def test_parts_come_in_turn_in_proportion_to_their_sizes(parts: list[int], spread: int, total: int, seed: int) -> None:
    order = in_sequence(parts, spread, total, seed, shuffle=True)
    bounds = [0, *(sum(parts[: i + 1]) for i in range(len(parts)))]
    of = [sum(row >= bound for bound in bounds[1:]) for row in order]  # len(parts) for a spread row
    in_turn = [part for part in of if part < len(parts)]
    assert len(order) == total and in_turn == sorted(in_turn)
    for part, size in enumerate([*parts, spread]):
        assert abs(of.count(part) - total * size / (sum(parts) + spread)) <= 1


@given(st.integers(1, 20), st.integers(1, 4), st.integers())
def test_each_pass_over_a_part_has_every_row_once(size: int, passes: int, seed: int) -> None:
    order = in_sequence([size, size], 0, 2 * size * passes, seed, shuffle=True)
    for start in range(0, size * passes, size):
        assert sorted(order[start : start + size]) == list(range(size))


def test_spread_rows_come_early_and_late() -> None:
    order = in_sequence([900], 100, 1000, 0, shuffle=True)
    places = [i for i, row in enumerate(order) if row >= 900]
    assert len(places) == 100
    assert all(10 <= sum(first <= place < first + 250 for place in places) <= 45 for first in range(0, 1000, 250))


# --- streams ----------------------------------------------------------------------------------------------------------


def stream(n: int, share: Share, **options: int) -> StreamedBatches:
    def collate(rows: Sequence[int]) -> Batch:
        return {"rows": torch.tensor(list(rows))}

    return StreamedBatches(lambda: iter(range(n)), collate, share, **{"steps": 6, "seed": 0, "buffer": 5, **options})


@given(st.integers(1, 40), st.integers(0, 6), st.integers(0, 2**31), st.integers(1, 50))
def test_a_stream_goes_on_with_the_rows_of_an_unbroken_one(n: int, start: int, seed: int, buffer: int) -> None:
    whole = stream(n, Share(4, 2), seed=seed, buffer=buffer)
    rest = stream(n, Share(4, 2), seed=seed, buffer=buffer)
    rest.start_step = start
    assert micro_batches(rest) == micro_batches(whole)[2 * start :]


@given(st.integers(4, 40), st.integers(0, 2**31))
def test_processes_share_a_stream(n: int, seed: int) -> None:
    alone = micro_batches(stream(n, Share(4), seed=seed))
    parts = [micro_batches(stream(n, Share(4, 1, rank, 2), seed=seed)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(rows) for rows in alone]


def test_a_stream_is_shuffled_within_its_buffer_and_loses_nothing() -> None:
    rows = [row for batch in micro_batches(stream(1000, Share(10), steps=90, buffer=50)) for row in batch]
    assert len(set(rows)) == len(rows) == 900 and rows != sorted(rows)
    assert all(row <= place + 50 for place, row in enumerate(rows))
    in_order = [row for batch in micro_batches(stream(20, Share(4), steps=6, buffer=1)) for row in batch]
    assert in_order == [*range(20), *range(4)]


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(DataError, match="no row to train on"):
        micro_batches(stream(0, Share(1)))
