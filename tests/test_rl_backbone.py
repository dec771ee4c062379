"""One copy of the weights for policy, reference, reward model and critic: the same numbers as from four."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from models.adapter_files import save_adapter
from models.adapters import AdapterConfig, adapt
from models.generation import sample
from models.layout import Batch, LayoutConfig, Tree, collate
from models.loading import ModelConfig, load_policy, load_scorer
from models.logprobs import token_logprobs
from models.scorer import reward_model_from, score_trees
from models.sharing import SharedScorer, load_shared_scorer, voices_of, why_apart
from models.voices import POLICY, Voices, weights_of
from rl.actor_critic import CRITIC, ActorCritic, Critic, critic_from, zero_head
from rl.rollout import freeze

WEIGHTS = torch.tensor([[1.0, 0.5, 2.0], [0.0, 0.0, -1.0]])  # of a reward, and of a cost
TREES = [
    Tree.of([5, 6, 7], [[8, 9, 10]]),
    Tree.of([11, 12], [[13, 14], [15]]),
    Tree.of([16] * 200, [[17] * 40, [18] * 20]),  # wide enough to be attended to tree by tree
]


def tuned(folder: str, place: Path) -> str:
    """The model with chat tokens in its own weights, as a stage of supervised tuning leaves it."""
    model, tokenizer = load_policy(folder, ModelConfig(path=folder))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def far(model: nn.Module, seed: int) -> None:
    """Trained weights as if training had moved them far."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.05


def reward_adapter(base: str, place: Path, method: str) -> str:
    """A trained reward model's adapter on the base."""
    policy, tokenizer = load_policy(base, ModelConfig(path=base))
    model = reward_model_from(policy, tokenizer, torch.Generator().manual_seed(1))
    model = adapt(model, AdapterConfig(method, rank=4), base=base)
    far(model, 2)
    model.config.reward_mean, model.config.reward_std = [1.0, -2.0, 0.5], [2.0, 0.5, 4.0]
    model.config.reward_length_slope, model.config.reward_length_mean = [0.1, 0.0, -0.1], 2.0
    save_adapter(model, place, root=place.parent)
    tokenizer.save_pretrained(place)
    return str(place)


class Shared(NamedTuple):
    """All of them on one backbone."""

    voices: Voices
    reward: SharedScorer
    model: ActorCritic


class Parts:
    """Folders of a base and of a reward model's adapter on it."""

    def __init__(self, folder: str, tmp_path: Path, method: str) -> None:
        self.cfg, self.adapter = ModelConfig(path="unread"), AdapterConfig(method, rank=8)
        self.base = tuned(folder, tmp_path / "sft")
        self.reward = reward_adapter(self.base, tmp_path / "reward", method)

    def policy(self) -> PreTrainedModel:
        torch.manual_seed(3)
        policy, _ = load_policy(self.base, self.cfg, self.adapter)
        far(policy, 4)
        return policy

    @cached_property
    def standing(self) -> Shared:
        """For those that change nothing of it."""
        return self.shared()

    def shared(self) -> Shared:
        voices = voices_of(self.policy(), self.base)
        assert voices is not None and why_apart(voices, self.reward, self.cfg) is None
        reward, _ = load_shared_scorer(self.reward, self.cfg, voices)
        return Shared(voices, reward, ActorCritic(voices.model, voices, critic_from(reward, WEIGHTS)))

    def theirs(self) -> PreTrainedModel:
        """The reward model as plain peft loads it, its adapter ready to be trained."""
        plain = AutoModelForSequenceClassification.from_pretrained(self.base, num_labels=3)
        return PeftModel.from_pretrained(plain, self.reward, is_trainable=True).base_model.model.eval()

    def separate(self) -> ActorCritic:
        """Every model with weights of its own."""
        reference, _ = load_policy(self.base, self.cfg)
        scorer = self.theirs()
        head = critic_from(load_scorer(self.reward, self.cfg)[0], WEIGHTS).value_head
        return ActorCritic(self.policy(), freeze(reference), Critic(scorer.base_model, head))


@pytest.fixture(scope="module", params=["llama lora", "gpt2 rslora", "qwen2 dora"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    model, method = request.param.split()
    return Parts(request.getfixturevalue(f"{model}_folder"), tmp_path_factory.mktemp(model), method)


@pytest.fixture(scope="module")
def llama(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(llama_folder, tmp_path_factory.mktemp("llama"), "lora")


def batch() -> Batch:
    return collate(TREES, bin_tokens=64)


def loss(model: ActorCritic) -> Tensor:
    """Some function of all that is learnt from."""
    found = model(batch(), 0.7)
    targets = torch.linspace(-1, 1, len(found.logprobs))
    return (found.values - targets[:, None]).square().mean() - (found.logprobs * targets).mean()


def gradients(model: ActorCritic, critic: dict[str, nn.Parameter]) -> list[Tensor]:
    """Of the policy, of the critic's backbone, and of its head."""
    model.zero_grad()
    loss(model).backward()
    own = weights_of(model.policy, POLICY)
    return [p.grad.clone() for p in (*own.values(), *critic.values(), *model.critic.value_head.parameters())]


def test_one_backbone_computes_what_four_copies_compute(parts: Parts) -> None:
    shared, separate = parts.standing, parts.separate()
    ours, theirs = shared.model(batch(), 0.7), separate(batch(), 0.7)
    assert ours.values.shape == (len(ours.logprobs), 2)
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    references = (model.reference_logprobs(batch(), 0.7) for model in (shared.model, separate))
    torch.testing.assert_close(*references, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss(shared.model), loss(separate), atol=1e-5, rtol=0)
    for one, other in zip(
        gradients(shared.model, weights_of(shared.model.policy.base_model, CRITIC)),
        gradients(separate, weights_of(separate.critic.backbone, "default")),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_reward_voice_scores_as_the_reward_model_does(parts: Parts) -> None:
    alone, _ = load_scorer(parts.reward, parts.cfg)
    ours, theirs = (score_trees(model, TREES, LayoutConfig()) for model in (parts.standing.reward, alone))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_voice_leaves_the_policy_and_what_is_trained_as_they_were(llama: Parts) -> None:
    voices, reward, model = llama.standing
    before = model(batch(), 1.0).logprobs
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(ZeroDivisionError), voices.speaking(reward.name):
        _ = 1 / 0
    score_trees(freeze(reward), TREES, LayoutConfig())
    model.reference_logprobs(batch(), 1.0)
    torch.testing.assert_close(model(batch(), 1.0).logprobs, before, atol=0, rtol=0)
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("reward" in name for name in trained)


def test_text_is_the_policys_own(llama: Parts) -> None:
    prompts = [[5, 6, 7], [8, 9]]
    alone, together = llama.policy(), llama.standing.model.policy
    ours, theirs = (
        sample(model, prompts, max_new_tokens=8, ends=set(), temperature=0.0) for model in (together, alone)
    )
    assert [s.ids for s in ours] == [s.ids for s in theirs]


def test_gradients_are_the_same_under_checkpointing(llama: Parts) -> None:
    model = llama.shared().model.train()
    critic = weights_of(model.policy.base_model, CRITIC)
    expected = gradients(model, critic)
    model.activation_checkpointing_enable()
    for one, other in zip(expected, gradients(model, critic), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_holds_what_is_trained_and_gives_it_back(llama: Parts) -> None:
    shared, other = llama.standing.model, llama.shared().model
    state = {name: x.clone() for name, x in shared.state_dict().items()}
    assert state.keys() == {name for name, p in shared.named_parameters() if p.requires_grad}
    far(other, 9)
    other.load_state_dict(state, strict=False)
    torch.testing.assert_close(loss(other), loss(shared), atol=0, rtol=0)


def test_the_policy_alone_is_its_own_adapter(llama: Parts, tmp_path: Path) -> None:
    policy = llama.standing.model.policy
    assert set(policy.state_dict()) == {name for name in llama.policy().state_dict()}
    save_adapter(policy, tmp_path / "saved", root=tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(llama.base)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(policy(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_new_tokens_have_rows_of_their_own_in_every_voice(any_folder: str) -> None:
    model, _ = load_policy(any_folder, ModelConfig(path="unread"))
    before = model(torch.tensor([[3, 5]])).logits
    voices = Voices(adapt(model, AdapterConfig("lora"), new_tokens=(5, 7)))
    voices.add(CRITIC, AdapterConfig("lora"), train=True)
    far(model, 1)
    said = {}
    for name in (POLICY, CRITIC, None):
        with voices.speaking(name):
            said[name] = model(torch.tensor([[3, 5]])).logits
    torch.testing.assert_close(said[None], before, atol=0, rtol=0)
    assert not torch.allclose(said[POLICY], said[CRITIC])
    voices.copy(POLICY, CRITIC)
    with voices.speaking(CRITIC):
        torch.testing.assert_close(model(torch.tensor([[3, 5]])).logits, said[POLICY], atol=0, rtol=0)


def test_an_adapter_that_was_trained_before_is_the_reference(llama: Parts) -> None:
    policy = llama.policy()
    before = token_logprobs(policy, batch()).logprobs
    voices = voices_of(policy, folder="of the adapter")
    model = ActorCritic(policy, voices, None)
    far(policy, 5)
    torch.testing.assert_close(model.reference_logprobs(batch(), 1.0), before)
    assert not torch.allclose(token_logprobs(policy, batch()).logprobs, before)


def test_a_head_reads_the_states_that_predict(llama: Parts) -> None:
    policy = llama.policy()
    model = ActorCritic(policy, voices_of(policy, llama.base), zero_head(policy, 1))
    assert not model(batch(), 1.0).values.any()
    torch.nn.init.normal_(model.critic.weight)
    alone = Critic(policy.base_model, model.critic)
    found = model(batch(), 1.0).values
    torch.testing.assert_close(found, alone(batch(), batch()["source"]))
    with torch.no_grad():
        torch.testing.assert_close(found, model.readings(1.0)["policy"].of(batch())["values"])


@pytest.mark.parametrize(
    ("method", "dtype", "why"),
    [("full", "float32", "weights of its own"), ("lora", "bfloat16", "read in bfloat16")],
)
def test_what_cannot_share_says_why(llama: Parts, method: str, dtype: str, why: str) -> None:
    voices = voices_of(llama.policy(), llama.base)
    folder = llama.reward if method == "lora" else llama.base
    assert why in why_apart(voices, folder, ModelConfig(path=folder, dtype=dtype))
    elsewhere = load_policy(llama.base, llama.cfg)[0]
    moved = Voices(adapt(elsewhere, AdapterConfig("lora"), base="elsewhere"))
    assert "belongs to" in why_apart(moved, llama.reward, llama.cfg)
