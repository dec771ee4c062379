"""Claims about the reward of a policy's responses: what each kind of source gives, alone and together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_level
from teacher_server import giving, serving
from test_models_scorer import LAYOUT, made
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

from models.chat import ChatFormat, Message
from models.errors import ArtifactError, ConfigError, NumericsError
from models.generation import Sample
from models.layout import Tree
from models.loading import ModelConfig, load_policy
from models.scorer import AXES, score_trees
from reward.sources import RewardSources, RewardTerm
from rl.rollout import Answers, Question
from stages.reward_terms import RewardTerms, reward_terms

PROMPTS = ("what is the capital of peru ?", "how do i clean the library ?")
TEXTS = (("lima .", "i do not know ."), ("first get the key .", "i am sorry ."))
EXACT = RewardTerm(function="reward.functions.exact_match", weight=2.0)


def sampled(ids: list[int], ended: bool = True) -> Sample:
    return Sample(ids, ended, [0.0] * len(ids))


class Policy:
    """The tokenizer of a policy, and its groups of responses."""

    def __init__(self, folder: str) -> None:
        _, self.tokenizer = load_policy(folder, ModelConfig(path=folder))
        self.chat = ChatFormat(self.tokenizer)
        self.answers = [self.group(i) for i in range(2)]

    def group(self, i: int, prompt: str | None = None) -> Answers:
        messages = (Message("user", prompt or PROMPTS[i]),)
        samples = [sampled(self.chat.response(text)) for text in TEXTS[i]]
        return Answers(
            Question(i, messages, self.chat.prompt(messages), {"id": f"q{i}", "answer": TEXTS[i][0]}), samples
        )

    def terms(self, **sources: Any) -> tuple[RewardTerms, list[str]]:
        said: list[str] = []
        return reward_terms(RewardSources(**sources), self.tokenizer, LAYOUT, said.append), said


@pytest.fixture(scope="module")
def policy(llama_folder: str) -> Policy:
    return Policy(llama_folder)


def folder_of(place: Path, base: str, seed: int = 0, **config: Any) -> str:
    """A reward model on a base of the tests, saved with its tokenizer; its config changed so."""
    model, tokenizer = made(base, seed)
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def rewards(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [folder_of(tmp_path_factory.mktemp("reward"), llama_folder, seed) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder that tells two sentiments of a text, its tokenizer without a chat template."""
    return encoder(tmp_path_factory.mktemp("sentiment"), id2label={0: "NEGATIVE", 1: "POSITIVE"})


def encoder(folder: Path, **config: Any) -> str:
    tokenizer = byte_level(["[PAD]", "[CLS]", "[SEP]"])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    made.model_max_length = 64
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(made), max_position_embeddings=64, pad_token_id=0, **shape, **config)
    config.initializer_range = 0.3
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def logits_of(folder: str, *texts: Any) -> torch.Tensor:
    """What plain transformers gives, one text after the other."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [tokenizer(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt") for text in texts]
    with torch.no_grad():
        return torch.cat([model(**row).logits for row in rows])


# --- reward models ----------------------------------------------------------------------------------------------------


def test_a_reward_model_of_the_policys_tokenizer_reads_its_token_ids(policy: Policy, rewards: list[str]) -> None:
    """Ids that no text would be tokenised to, and a response that did not end."""
    terms, said = policy.terms(path=rewards[0])
    odd = [*policy.chat.tokenizer("l", add_special_tokens=False).input_ids, *policy.chat.response("ima .", ended=False)]
    question = policy.answers[0].question
    answers = [Answers(question, [sampled(odd, ended=False), policy.answers[0].samples[1]]), policy.answers[1]]
    assert terms.columns == AXES and terms.weights == dict.fromkeys(AXES, 1.0)
    model, _ = made_again(rewards[0])
    expected = score_trees(model, [Tree.of(a.question.ids, [s.ids for s in a.samples]) for a in answers], LAYOUT)
    torch.testing.assert_close(terms(answers), expected)
    assert said == [f"reward: {rewards[0]} reads the policy's own tokens"]


def made_again(folder: str) -> tuple[Any, Any]:
    from models.loading import load_scorer

    return load_scorer(folder, ModelConfig(path=folder))


def test_a_reward_model_of_another_tokenizer_reads_the_texts_and_says_so(
    policy: Policy, qwen2_folder: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, qwen2_folder)
    terms, said = policy.terms(path=folder)
    model, tokenizer = made_again(folder)
    chat = ChatFormat(tokenizer)
    trees = [
        Tree.of(chat.prompt((Message("user", prompt),)), [chat.response(text) for text in texts])
        for prompt, texts in zip(PROMPTS, TEXTS, strict=True)
    ]
    torch.testing.assert_close(terms(policy.answers), score_trees(model, trees, LAYOUT), atol=1e-5, rtol=0)
    assert "another tokenizer or template than the policy: texts are tokenised again" in said[0]


def test_several_are_read_as_one(policy: Policy, rewards: list[str]) -> None:
    each = torch.stack([policy.terms(path=path)[0](policy.answers) for path in rewards])
    bound, _ = policy.terms(models=rewards, combine="lower_bound", uncertainty_coef=0.5)
    assert bound.columns == AXES
    torch.testing.assert_close(bound(policy.answers), each.mean(0) - 0.5 * each.std(0, unbiased=False))
    worst, _ = policy.terms(models=rewards, combine="worst")
    assert torch.equal(worst(policy.answers), each.amin(0))


def test_a_prompt_too_long_for_the_reward_model_loses_its_beginning(policy: Policy, rewards: list[str]) -> None:
    terms, _ = policy.terms(path=rewards[0])
    long = policy.group(0, "peru " * 400)
    assert len(long.question.ids) > 256 and terms([long]).isfinite().all()


def test_one_axis_of_a_reward_model_is_a_term_beside_another(policy: Policy, rewards: list[str]) -> None:
    more = {"safe": RewardTerm(path=rewards[1], label="harmless", weight=-0.5)}
    terms, _ = policy.terms(path=rewards[0], also=more)
    assert terms.columns == (*AXES, "safe") and terms.weights["safe"] == -0.5
    both = [policy.terms(path=path)[0](policy.answers) for path in rewards[:2]]
    torch.testing.assert_close(terms(policy.answers), torch.cat([both[0], both[1][:, 2:]], dim=1))


@pytest.mark.parametrize("label", [None, "kind"])
def test_a_model_of_several_scores_needs_one_of_its_labels(policy: Policy, rewards: list[str], label: str) -> None:
    with pytest.raises(ConfigError, match=r"reward\.also\.more.*helpful, honest, harmless"):
        policy.terms(also={"more": RewardTerm(path=rewards[0], label=label)})


def test_a_language_model_is_no_reward_model(policy: Policy, llama_folder: str) -> None:
    with pytest.raises(ArtifactError, match="expected a reward model, found a language model"):
        policy.terms(path=llama_folder)


# --- classifiers ------------------------------------------------------------------------------------------------------


def test_a_label_of_a_classifier_counts_by_its_log_probability(policy: Policy, sentiment: str) -> None:
    terms, said = policy.terms(path=sentiment, label="POSITIVE")
    expected = logits_of(sentiment, *TEXTS[0], *TEXTS[1]).log_softmax(-1)[:, 1:]
    assert terms.columns == ("score",) and expected.std() > 0.01
    torch.testing.assert_close(terms(policy.answers), expected, atol=1e-5, rtol=0)
    assert said == [f"reward: {sentiment} has no chat template: reads texts, replies"]


def test_labels_that_do_not_exclude_each_other_count_by_their_own_probability(policy: Policy, tmp_path: Path) -> None:
    labels = {0: "toxic", 1: "threat", 2: "insult"}
    folder = encoder(tmp_path, id2label=labels, problem_type="multi_label_classification")
    terms, _ = policy.terms(also={"threat": RewardTerm(path=folder, label="threat", weight=-1.0)})
    expected = logits_of(folder, *TEXTS[0], *TEXTS[1]).sigmoid().log()[:, 1:2]
    torch.testing.assert_close(terms(policy.answers), expected, atol=1e-5, rtol=0)


def test_a_classifier_of_one_label_gives_its_output_and_may_read_pairs(policy: Policy, tmp_path: Path) -> None:
    folder = encoder(tmp_path, num_labels=1)
    terms, said = policy.terms(also={"quality": RewardTerm(path=folder, reads="pair")})
    pairs = [(prompt, text) for prompt, texts in zip(PROMPTS, TEXTS, strict=True) for text in texts]
    torch.testing.assert_close(terms(policy.answers), logits_of(folder, *pairs), atol=1e-5, rtol=0)
    assert terms.columns == ("quality",) and said[0].endswith("prompt and reply")


def test_what_a_classifier_has_no_room_for_is_cut(policy: Policy, sentiment: str) -> None:
    terms, _ = policy.terms(path=sentiment, label="POSITIVE", reads="pair")
    group = policy.group(0, "peru " * 100)
    empty = sampled(policy.chat.end_ids)
    assert terms([Answers(group.question, [*group.samples, empty])]).isfinite().all()


# --- functions, services, and all together ----------------------------------------------------------------------------


def test_every_source_is_a_column_in_the_order_of_the_options(policy: Policy, rewards: list[str]) -> None:
    def lengths(_: int, body: Any) -> Callable[..., None]:
        return giving(json.dumps({"scores": [len(text) for text in body["completions"]]}))

    with serving(lengths) as server:
        far = RewardTerm(url=server.url, weight=-0.1)
        terms, _ = policy.terms(path=rewards[0], also={"right": EXACT, "size": far})
        found = terms(policy.answers)
    assert terms.columns == (*AXES, "right", "size") and list(terms.weights.values()) == [1.0, 1.0, 1.0, 2.0, -0.1]
    assert found[:, 3].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert found[:, 4].tolist() == [len(text) for texts in TEXTS for text in texts]
    torch.testing.assert_close(found[:, :3], policy.terms(path=rewards[0])[0](policy.answers))


def test_a_function_alone_is_a_reward(policy: Policy) -> None:
    terms, _ = policy.terms(also={"right": EXACT})
    assert terms.columns == ("right",) and terms(policy.answers).tolist() == [[1.0], [0.0], [1.0], [0.0]]


def test_what_is_no_number_ends_with_the_term_and_the_prompt(policy: Policy, rewards: list[str]) -> None:
    with serving(lambda *_: giving('{"scores": [1, 1, NaN, 1]}')) as server:
        terms, _ = policy.terms(also={"far": RewardTerm(url=server.url)})
        with pytest.raises(
            NumericsError, match=r"reward\.also\.far: far is nan .* prompt q1 \(how do i clean .* 1 of 4"
        ):
            terms(policy.answers)


def test_a_reward_model_with_broken_weights_is_named(policy: Policy, llama_folder: str, tmp_path: Path) -> None:
    model, tokenizer = made(llama_folder)
    with torch.no_grad():
        model.score.weight[1] = float("inf")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    terms, _ = policy.terms(path=str(tmp_path))
    with pytest.raises(NumericsError, match=r"^reward: honest is (nan|-?inf) .* prompt q0 \(what is the capital"):
        terms(policy.answers)
