import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.intervals import Estimate
from evals.notation import compact, duration, foreign, memory, number, signed
from evals.report import write_report
from evals.results import (
    METRICS,
    TASK_METRICS,
    Alert,
    Answer,
    Frontier,
    FrontierPoint,
    Metric,
    ModelResult,
    Report,
    Sample,
    StageRecord,
    TaskTable,
    estimates,
    nested,
)
from evals.reward_results import (
    AxesAgree,
    AxisQuality,
    Group,
    Hack,
    HackResult,
    JudgesAgree,
    Mistake,
    ReliabilityBin,
    RewardQuality,
    SourceGroup,
    Told,
)
from evals.rl_results import Look, RLCourse, Then
from evals.rl_results import Told as Answered

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>alert(1)</script>\x1b[31m\x00 \u202egnp \ud800 </td></table> & 'quote' \"double\" \u2028 \u200d"


class Page(HTMLParser):
    """Reads a page as a browser would, and notes what a report must not have."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.handlers, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


def reward_quality(text="hello"):
    share = Estimate(0.8, 0.7, 0.9, 50)
    helpful = AxisQuality(
        "helpful",
        share,
        one_judge=share,
        judges=JudgesAgree(0.82, 0.9, 1234),
        calibration_error=0.05,
        temperature=1.2,
        bins=(ReliabilityBin(0.6, 0.55, 10), ReliabilityBin(0.9, 0.95, 30)),
        length_correlation=0.31,
        by_length={"shorter": Group(0.61, 40), "longer_wins": Group(0.57, 100)},
        by_strength={(0.25, 0.5): Group(0.66, 10)},
        by_source={f"model {text}": SourceGroup(0.72, 33, 0.25, 0.75)},
    )
    pays = HackResult(Estimate(0.62, 0.55, 0.7, 60), Estimate(0.4, 0.3, 0.5, 60))
    fails = HackResult(Estimate(0.02, 0.0, 0.05, 60), Estimate(-1.5, -1.7, -1.3, 60))
    return RewardQuality(
        axes=(helpful, AxisQuality("harmless", share, share)),
        hacks=(
            Hack("flattery", "praise", {"helpful": pays, "harmless": fails}),
            Hack("length", "length", {"helpful": fails}),
        ),
        axes_agree=(AxesAgree(("helpful", "harmless"), 100, 0.75, 40, 0.7, 0.5),),
        mistakes=(Mistake("helpful", text, Told(text, text, -0.5), Told("x" * 1000, "", 2.0), 0.97),),
    )


def rl_course(text="hello"):
    looks = (
        Look(0, -0.01, {"proxy": 0.5, "gold": 0.8}, {"proxy": 0.1, "gold": 0.02}),
        Look(2, 4.0, {"proxy": 0.9, "gold": 0.7}, {"proxy": 0.1, "gold": 0.02}, kept=True),
    )
    reward = {f"reward/{text}": [(1, 0.1), (2, 0.2)], "objective/kl": [(1, 0.0), (2, 1.5)], "unfinished": [(1, 0.0)]}
    then = Then(text, Answered("", {"gold": 0.5}), Answered(text, {"gold": 0.25}))
    return RLCourse("ppo", reward, looks, {2: [0.0, -1.5, 3.0]}, {f"rollout {text}": 1.0}, (then,))


def full_report(text="hello"):
    measured = {m.key: Estimate(0.5, 0.45, 0.55, 100) for m in (*METRICS, *TASK_METRICS)}
    gains = {key: Estimate(0.1, 0.05, 0.15, 100) for key in measured}
    return Report(
        title=f"title {text}",
        models=(
            ModelResult("base", measured),
            ModelResult("sft", measured, "base", gains),
            ModelResult(f"other {text}", measured, "sft", gains),
        ),
        stages=(
            StageRecord(
                "base", 10.0, 2**30, "abc", (), {"a": text}, {"loss": 1.5}, {"loss": [(0, 2.0), (1, math.nan)]}
            ),
            StageRecord(
                "ppo",
                100.0,
                2**31,
                f"d{text}",
                ("base",),
                curves={f"kl {text}": [(0, 0.0), (1, 1.0)], "loss": [], "eval_loss": [(0, 1.0), (1, 0.5)]},
                time_split={"rollout": 60.0, f"update {text}": 40.0},
            ),
        ),
        frontiers=(Frontier("ppo", (FrontierPoint(0, 0, 0.5), FrontierPoint(4, 1, 0.6, 8, kept=True))),),
        reward_quality=reward_quality(text),
        rl=(rl_course(text),),
        samples=(Sample(text, {"base": Answer(text, {"helpful": 0.5}), "sft": Answer("")}, text, right=text),),
        alerts=(Alert("ppo", text, severe=True),),
        facts={"seed": text},
        tasks=(TaskTable(f"task {text}", TASK_METRICS),),
    )


def written(tmp_path, report):
    return write_report(tmp_path / "r.html", report).read_text(encoding="utf-8")


def test_the_page_is_whole_and_shows_every_part(tmp_path):
    page = Page(written(tmp_path, full_report()))
    assert page.open == []
    for heading in (
        "Numbers",
        "Before and after",
        "Helpful, honest, harmless",
        "Reward against KL",
        "Reward model",
        "Reinforcement learning: ppo",
        "Answers side by side",
    ):
        assert heading in page.text
    assert page.tags.count("svg") >= 7


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(tmp_path):
    text = written(tmp_path, full_report(HOSTILE))
    page = Page(text)
    assert all(address.startswith("#") for address in page.addresses)
    assert page.handlers == [] and not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "@import" not in text and "url(" not in text and "default-src 'none'" in text


def test_what_a_model_wrote_is_shown_as_text(tmp_path):
    page = Page(written(tmp_path, full_report(HOSTILE)))
    assert page.open == []
    assert "<script>alert(1)</script>U+001B[31mU+0000 U+202Egnp U+D800 </td></table>" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2028]", page.text)


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_comes_back_as_it_was_or_named(text):
    page = Page(f"<p>{foreign(text)}</p>")
    assert set(page.tags) <= {"p", "span"} and page.open == []
    readable = "".join(c for c in text if c.isprintable() or c == " ")
    assert all(c in page.text for c in readable)
    page.text.encode("utf-8")


def test_line_breaks_emoji_and_other_scripts_stay_as_they_are():
    text = "a\n\tb 👩\u200d👩\u200d👧 مرحبا é"
    assert foreign(text) == text


def test_a_very_long_answer_is_cut_and_says_so():
    assert foreign("x" * 12_000).endswith("10,000 more characters</span>")


def test_an_empty_answer_and_one_that_was_not_sampled_are_told_apart(tmp_path):
    report = Report("t", (), samples=(Sample("p", {"a": Answer("")}), Sample("q", {"b": Answer("x")})))
    text = Page(written(tmp_path, report)).text
    assert "(empty)" in text and text.count("not sampled") == 2


def test_a_report_of_nothing_says_what_is_missing(tmp_path):
    page = Page(written(tmp_path, Report("t", ())))
    assert page.open == [] and "No model was evaluated." in page.text and "No stage was recorded." in page.text


def test_marks_follow_the_interval_and_colours_the_meaning(tmp_path):
    up, around = Estimate(0.1, 0.05, 0.15, 9), Estimate(0.1, -0.05, 0.15, 9)
    metrics = {"gold.mean": up, "perplexity": up, "zero_shot": up}
    gains = {"gold.mean": up, "perplexity": up, "zero_shot": around}
    text = written(tmp_path, Report("t", (ModelResult("ppo", metrics, "sft", gains),)))
    cells = re.findall(r'<td class="([^"]*)" title="n = 9">', text)
    # in the order of the columns: gold mean, zero-shot, perplexity
    assert cells == ["better up", "unclear", "worse up"]


def test_what_a_task_lost_is_red_and_what_it_gained_green_beside_the_value(tmp_path):
    keys = ("tasks.web.perplexity", "tasks.sums.exact_match", "tasks.sums.length")
    values = (Estimate(8.0, 7.0, 9.0, 5), Estimate(0.5, 0.4, 0.6, 5), Estimate(9.0, 8.0, 10.0, 5))
    metrics = dict(zip(keys, values, strict=True))
    gains = {key: Estimate(0.25, 0.125, 0.375, 5) for key in keys}
    shown = (
        Metric(keys[0], "perplexity", "lower"),
        Metric(keys[1], "exact match", "higher", 3),
        Metric(keys[2], "length", None),
    )
    tables = (TaskTable("web", shown[:1]), TaskTable("sums", shown[1:]))
    models = (ModelResult("before", metrics), ModelResult("after", metrics, "before", gains))
    text = written(tmp_path, Report("t", models, tasks=tables))
    changes = re.findall(r'<i class="(\w+)">([^<]*)</i>', text)
    assert changes == [
        ("worse", "+0.25 [+0.12, +0.38]"),
        ("better", "+0.250 [+0.125, +0.375]"),
        ("unclear", "+0.25 [+0.12, +0.38]"),
    ]
    assert text.count('<td title="n = 5">') == 6 and "paired change from before" in text


def test_a_right_answer_stands_beside_the_answers(tmp_path):
    samples = (Sample("p", {"a": Answer("x")}, right="lima"), Sample("q", {"a": Answer("y")}))
    text = Page(written(tmp_path, Report("t", (), samples=samples))).text
    assert "right answer" in text and "lima" in text
    assert "right answer" not in Page(written(tmp_path, Report("t", (), samples=samples[1:]))).text


@given(st.dictionaries(st.lists(st.sampled_from("abc"), min_size=2, max_size=2).map(".".join), st.integers(0, 9)))
def test_a_tree_of_estimates_and_their_dotted_names_say_the_same(values):
    found = {name: Estimate(value, value, value, 1) for name, value in values.items()}
    assert estimates(nested({name: estimate.as_dict() for name, estimate in found.items()})) == found


def test_a_reward_model_alone_has_a_page_of_its_own(tmp_path):
    page = Page(written(tmp_path, Report("t", (), reward_quality=reward_quality())))
    assert page.open == [] and "Reward model" in page.text and "Lineage" in page.text
    assert "Did the model get better" not in page.text and "No model was evaluated." not in page.text


def test_the_course_of_rl_alone_has_a_page_with_every_judge_it_had(tmp_path):
    text = written(tmp_path, Report("t", (), rl=(rl_course("why <b>?"),)))
    page = Page(text)
    assert page.open == [] and "Did the model get better" not in page.text and "No reward model" not in page.text
    assert "Gold score" in page.text and "Learned reward" in page.text and "Referee" not in page.text
    assert text.count('class="kept c-ppo"') == 2 and "rollout 2: 0.7 at 4 nats" in page.text
    assert '<span class="score low">gold 0.25 (\N{MINUS SIGN}0.25)</span>' in text and "(empty)" in page.text
    assert "explained variance" not in page.text  # it was not logged


def test_a_course_without_looks_says_what_nobody_knows(tmp_path):
    course = RLCourse("ppo", {"objective/kl": [(1, 0.0)]})
    assert "nothing tells whether it generalised" in Page(written(tmp_path, Report("t", (), rl=(course,)))).text


def test_a_hack_that_pays_is_red_and_said_in_words(tmp_path):
    text = written(tmp_path, Report("t", (), reward_quality=reward_quality()))
    flattery, length = re.findall(r'<tr><th scope="row">(?:flattery|length)</th>.*?</tr>', text)
    assert 'class="worse" title="n = 60"><b>62% [55%, 70%]</b><small>+0.40</small>' in flattery
    assert "Pays on helpful: training against this model will learn it. Rewards praise." in flattery
    assert "Does not pay." in length and 'class="better"' in length and "<td>&ndash;</td>" in length


def test_the_reward_section_shows_groups_judges_and_mistakes(tmp_path):
    page = Page(written(tmp_path, Report("t", (), reward_quality=reward_quality("why <b>?"))))
    for shown in (
        "better response is shorter0.6140 pairs",
        "always picking the longer one0.57100 pairs",
        "0.25 to 0.5: 10 pairs",
        "model why <b>?25% → 75%0.72 of 33",
        "two judges agree0.821,234 pairs",
        "ceiling that this sets0.90",
        "helpful and harmless75%100 pairs70%40 pairs50%40 pairs",
        "why <b>?helpful, 97% sure",
        "score −0.50",
        "600 more characters",
    ):
        assert shown in page.text, shown


def test_writing_makes_the_folder_and_leaves_nothing_beside(tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", Report("t", ()))
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (0.0, "0.00"),
        (-0.001, "0.00"),
        (-1.5, "\u22121.50"),
        (12345.678, "12,345.68"),
        (-7.32e9, "\u22127.3e9"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value, want):
    assert number(value) == want


@pytest.mark.parametrize(("value", "want"), [(0.0, "+0.00"), (0.051, "+0.05"), (-0.051, "\u22120.05")])
def test_signed_numbers(value, want):
    assert signed(value) == want


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (0.04123, "0.0412"),
        (1234.5, "1234"),
        (12345.0, "12.3k"),
        (1e-5, "1.0e\u22125"),
        (2.5e6, "2.5e6"),
        (-3.0, "\u22123"),
    ],
)
def test_compact_numbers(value, want):
    assert compact(value) == want


@pytest.mark.parametrize(
    ("seconds", "want"), [(4.25, "4.2 s"), (41.0, "41 s"), (65.0, "1 min 05 s"), (7380.0, "2 h 03 min")]
)
def test_durations(seconds, want):
    assert duration(seconds) == want


@pytest.mark.parametrize(("n_bytes", "want"), [(2**29, "512 MiB"), (1.5 * 2**30, "1.5 GiB")])
def test_memory(n_bytes, want):
    assert memory(n_bytes) == want
