import pytest

from evals.intervals import Estimate
from evals.results import METRICS, Metric, ModelResult, Report, TaskTable, estimates
from evals.verdict import answer, direction, final_verdicts, overall, verdicts

BY_KEY = {metric.key: metric for metric in METRICS}


def near(mean, half=0.01, n=100):
    return Estimate(mean, mean - half, mean + half, n)


def model(name, baseline=None, gold=0.5, metrics=None, **gains):
    renamed = {key.replace("__", "."): near(value) for key, value in gains.items()}
    return ModelResult(name, {"gold.mean": near(gold), **(metrics or {})}, baseline, renamed)


def report(*models):
    return Report("t", models)


@pytest.mark.parametrize(
    ("key", "gain", "tone"),
    [
        ("gold.mean", near(0.05), "better"),
        ("gold.mean", near(-0.05), "worse"),
        ("gold.mean", near(0.005), "unclear"),
        ("perplexity", near(0.5), "worse"),
        ("truncated", near(-0.5), "better"),
        ("length", near(5.0), "unclear"),
        ("gold.mean", None, "unclear"),
    ],
)
def test_direction_needs_an_interval_on_one_side(key, gain, tone):
    assert direction(gain, BY_KEY[key]) == tone


def test_a_gain_without_a_loss_is_at_no_measurable_cost():
    got = report(model("sft"), model("ppo", "sft", gold__mean=0.05, perplexity=0.001))
    assert answer(got) == "Yes: ppo improved, at no measurable cost."
    assert overall(got) == "better"


def test_the_costs_are_named():
    got = report(model("sft"), model("ppo", "sft", gold__mean=0.05, gold__helpful=-0.03, perplexity=0.4))
    assert answer(got) == "Yes: ppo improved, at a cost in helpful and perplexity."
    assert verdicts(got)[0].lost == ("helpful \u22120.03 [\u22120.04, \u22120.02]", "perplexity +0.40 [+0.39, +0.41]")


def test_the_best_of_several_is_named_and_so_is_who_failed():
    got = report(
        model("sft"),
        model("ppo", "sft", 0.7, gold__mean=0.05),
        model("dpo", "sft", 0.8, gold__mean=0.15),
        model("grpo", "sft", 0.6, gold__mean=0.001),
    )
    assert answer(got) == "Yes: ppo and dpo improved, dpo most (0.80), at no measurable cost. grpo did not."


def test_an_interval_around_zero_is_no_gain():
    got = report(model("sft"), model("ppo", "sft", gold__mean=0.005))
    assert answer(got) == "No: ppo did not measurably improve on what came before."
    assert (
        verdicts(got)[0].headline
        == "ppo cannot be told from sft: gold mean +0.005 [\u22120.005, +0.015] over 100 prompts"
    )
    assert overall(got) == "unclear"


def test_a_loss_is_called_one():
    got = report(model("sft"), model("ppo", "sft", gold__mean=-0.2))
    assert overall(got) == "worse" and verdicts(got)[0].headline.startswith("ppo is worse than sft")


def test_a_reward_that_rises_alone_is_over_optimisation():
    (verdict,) = verdicts(report(model("sft"), model("ppo", "sft", gold__mean=0.0, reward__mean=1.0)))
    assert any("over-optimised" in note for note in verdict.notes)


def test_distance_and_length_are_told():
    (verdict,) = verdicts(
        report(model("sft"), model("ppo", "sft", metrics={"kl": near(6.2)}, gold__mean=0.1, length=-3.0))
    )
    assert "It moved 6.2 nats per response from where it started." in verdict.notes
    assert "Answers are 3.0 tokens shorter." in verdict.notes


@pytest.mark.parametrize(("rate", "kept"), [(near(0.6), "gained"), (near(0.4), "lost")])
def test_a_win_rate_is_read_against_one_half(rate, kept):
    (verdict,) = verdicts(report(model("sft"), model("ppo", "sft", metrics={"win_rate": rate}, gold__mean=0.1)))
    assert getattr(verdict, kept)[0].startswith(f"win rate {rate.mean:.2f} [")


def test_the_answer_is_about_the_last_models_only():
    got = report(model("base"), model("sft", "base", gold__mean=0.4), model("ppo", "sft", gold__mean=-0.1))
    assert [verdict.model for verdict in final_verdicts(got)] == ["ppo"]
    assert answer(got).startswith("No: ppo")


def test_nothing_compared_is_nothing_said():
    assert "nothing can be said" in answer(report(model("base")))


def test_estimates_are_found_by_dotted_name():
    leaf = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    tree = {"gold": {"mean": leaf, "helpful": leaf}, "kl": leaf, "stage": "ppo"}
    assert estimates(tree) == dict.fromkeys(("gold.mean", "gold.helpful", "kl"), Estimate(0.5, 0.4, 0.6, 9))


def test_without_a_gold_score_the_nearness_to_right_answers_decides_and_what_was_forgotten_is_the_cost():
    metrics = {"rouge_l": near(0.4), "tasks.web.perplexity": near(9.0), "tasks.web.bits_per_byte": near(2.0)}
    change = {"rouge_l": near(0.1), "tasks.web.perplexity": near(2.0), "tasks.web.bits_per_byte": near(0.001)}
    web = TaskTable(
        "web",
        (Metric("tasks.web.perplexity", "perplexity", "lower"), Metric("tasks.web.bits_per_byte", "bits", "lower")),
        told=("tasks.web.perplexity", "tasks.web.bits_per_byte"),
    )
    models = (ModelResult("before", metrics), ModelResult("after", metrics, "before", change))
    got = Report("t", models, tasks=(web,))
    assert answer(got) == "Yes: after improved, at a cost in web: perplexity."
    assert verdicts(got)[0].headline == "after is better than before: ROUGE-L +0.100 [+0.090, +0.110] over 100 prompts"
    assert verdicts(got)[0].lost == ("web: perplexity +2.00 [+1.99, +2.01]",)
    assert verdicts(got)[0].notes == ()  # what did not change on a task is left to its table
