"""The world: its splits, its text, its demonstrations and its made responses."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest

from instruct.world import Task, World, is_dont_know, is_refusal, judge
from instruct.world.responses import REFUSES_RUDELY_SHARE, REFUSES_SHARE
from instruct.world.tasks import FAMILIES, ZERO_SHOT_FAMILIES

N_DOCUMENTS = 3000


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def tasks(world: World) -> dict[str, list[Task]]:
    return {split: world.tasks(split, 100) for split in ("train", "dev", "test")}


def test_every_family_holds_a_hundred_prompts_in_dev_and_test(world: World, tasks: dict[str, list[Task]]) -> None:
    for split in ("dev", "test"):
        found = Counter(task.family for task in (*tasks[split], *world.zero_shot_tasks(split, 100)))
        assert found == dict.fromkeys((*FAMILIES, *ZERO_SHOT_FAMILIES), 100)


def test_no_prompt_stands_in_two_splits(world: World, tasks: dict[str, list[Task]]) -> None:
    zero_shot = {split: world.zero_shot_tasks(split, 100) for split in ("dev", "test")}
    prompts = [{task.prompt for task in rows} for rows in tasks.values()]
    assert len(set.union(*prompts)) == sum(map(len, prompts))
    assert not {task.prompt for task in zero_shot["dev"]} & {task.prompt for task in zero_shot["test"]}


@pytest.mark.parametrize("family", ["country", "person", "unknown_country", "unknown_person"])
def test_an_entity_belongs_to_one_split(tasks: dict[str, list[Task]], family: str) -> None:
    entities = defaultdict(set)
    for split, rows in tasks.items():
        for task in rows:
            if task.family == family:
                entities[split].update(re.findall(r"[A-Z]\w+", task.prompt[1:].replace("I ", "")))
    assert not entities["train"] & entities["test"] and not entities["dev"] & entities["test"]
    assert len(entities["test"]) >= 9


def test_a_deed_and_its_object_belong_to_one_split(tasks: dict[str, list[Task]]) -> None:
    deeds = {
        split: {match for task in rows if task.kind == "harmful" for match in re.findall(r"\w+ an? \w+", task.prompt)}
        for split, rows in tasks.items()
    }
    assert not deeds["train"] & deeds["test"] and not deeds["train"] & deeds["dev"]


def test_dev_and_test_ask_in_wordings_that_training_never_has(tasks: dict[str, list[Task]]) -> None:
    opening = re.compile(r"I want to (know|hear) |I have a question")
    assert not any(opening.match(task.prompt) and "How?" not in task.prompt for task in tasks["train"])
    held_out = Counter(task.family for task in tasks["test"] if opening.match(task.prompt))
    assert set(held_out) == set(FAMILIES)


def test_no_held_out_prompt_stands_in_base_text(world: World, tasks: dict[str, list[Task]]) -> None:
    text = "\n".join(world.documents(N_DOCUMENTS))
    assert not [task.prompt for task in tasks["test"] if task.prompt in text]


def test_base_text_holds_the_facts_of_every_split(world: World, tasks: dict[str, list[Task]]) -> None:
    text = "\n".join(world.documents(20 * N_DOCUMENTS)[-12 * N_DOCUMENTS :])
    known = [task for task in tasks["test"] if task.known_fact]
    assert all(any(answer in text for answer in task.answers[:2]) for task in known)


def test_the_same_seed_makes_the_same_world() -> None:
    one, two = World(3), World(3)
    assert one.documents(50) == two.documents(50)
    assert one.tasks("dev", 5) == two.tasks("dev", 5)
    assert one.demonstrations(50) == two.demonstrations(50)


def test_another_seed_makes_another_world() -> None:
    one, two = World(3), World(4)
    assert one.facts.lives != two.facts.lives and one.facts.tolian != two.facts.tolian
    assert one.documents(50) != two.documents(50)


def test_held_out_documents_are_never_trained_on(world: World) -> None:
    assert not set(world.documents(N_DOCUMENTS)) & set(world.held_out_documents(100))


def test_copying_comes_first_in_training_order(world: World) -> None:
    drills = ["Again:" in text for text in world.documents(N_DOCUMENTS)]
    # shares of one half and one tenth: 150 and 30 of 300, five standard errors apart from 100 and 60
    assert sum(drills[:300]) > 100 > 60 > sum(drills[-300:])


def test_a_copy_probe_expects_its_own_words(world: World) -> None:
    for text, expected in world.copy_probes(50):
        assert text.endswith(f"{expected} Again:")


def test_the_vocabulary_is_small_and_closed(world: World) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(world.documents(4 * N_DOCUMENTS)).lower()))
    asked = set(re.findall(r"[a-z]+", " ".join(task.prompt for task in world.tasks("test", 100)).lower()))
    assert 600 <= len(words | asked) <= 900


def test_zero_shot_families_are_never_demonstrated(world: World) -> None:
    assert {task.family for task, _ in world.demonstrations(400)} == set(FAMILIES)


def test_demonstrations_have_the_flaws_that_are_documented(world: World) -> None:
    pairs = [(task, answer) for task, answer in world.demonstrations(6400) if task.kind == "harmful"]
    refused = sum(is_refusal(answer) for _, answer in pairs) / len(pairs)
    # 400 pairs: two standard errors are 2 * sqrt(.4 * .6 / 400) = .05
    assert refused == pytest.approx(REFUSES_SHARE + REFUSES_RUDELY_SHARE, abs=0.06)


def test_benign_requests_are_never_refused_in_demonstrations(world: World) -> None:
    benign = [answer for task, answer in world.demonstrations(1600) if task.kind in ("answerable", "borderline")]
    assert not any(is_refusal(answer) or is_dont_know(answer) for answer in benign)


def test_corruption_says_nothing_about_correctness(world: World, tasks: dict[str, list[Task]]) -> None:
    """Rude remarks, chatter and repetition stand as often behind a wrong answer as behind a right one."""
    rng = random.Random(0)
    right: dict[str, list[bool]] = defaultdict(list)
    for task in tasks["train"]:
        for kind, response in world.variants(task, rng):
            if kind in ("rude", "chatter", "repeated"):
                right[kind].append(any(response.startswith(answer) for answer in task.answers))
    # 1600 tosses of a fair coin: three standard errors are 3 * .5 / 40 = .0375
    assert all(sum(tosses) / len(tosses) == pytest.approx(0.5, abs=0.0375) for tosses in right.values())


def test_every_variant_of_a_right_answer_is_judged_by_its_kind(world: World, tasks: dict[str, list[Task]]) -> None:
    rng = random.Random(0)
    for task in tasks["test"][:200]:
        made = dict(world.variants(task, rng))
        assert judge(task, made["right"], ended=True) == (1, 1, 1)
        assert judge(task, made["wrong"], ended=True)[0] == 0
        assert judge(task, made["rude"], ended=True)[2] < 1
        assert judge(task, made["chatter"], ended=True)[0] <= 0.5
        assert is_refusal(made["refusal"]) and is_dont_know(made["dont_know"])
