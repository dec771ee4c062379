"""Claims about samplers: whoever answers, the answers are those of the policy at that moment."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from teacher_server import giving, in_turn, serving
from transformers import AutoModelForCausalLM, PreTrainedModel
from vllm_server import Engine

from models.adapters import AdapterConfig, adapt
from models.errors import ConfigError, Unavailable
from models.generation import Sample, sample
from models.http import Limits
from models.layout import Tree, collate
from models.logprobs import token_logprobs
from rl.mismatch import importance_weights, sampler_mismatch
from rl.samplers import HFSampler, SamplerConfig, Sampling, load_sampler

PROMPTS = [[random.Random(i).randrange(5, 250) for _ in range(4 + i)] for i in range(3)]
SAMPLING = Sampling(ends=tuple(range(5, 40)), max_new_tokens=8, temperature=0.8)
GREEDY = Sampling(ends=tuple(range(5, 40)), max_new_tokens=8, temperature=0.0)
QUICK = Limits(tries=2, wait=0.01, timeout=30)


def loaded(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")


def generators(n: int = len(PROMPTS)) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def vllm(url: str, **options: object) -> SamplerConfig:
    return SamplerConfig(engine="vllm", url=url, model="base", limits=QUICK, **options)


def greedy(policy: PreTrainedModel) -> list[Sample]:
    return sample(policy, PROMPTS, max_new_tokens=8, ends=GREEDY.ends, temperature=0)


def changed(policy: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    """The same model after an update."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    return policy


def trained_logprobs(policy: PreTrainedModel, prompts: list[list[int]], samples: list[Sample], temperature: float):
    """(R, T) of the trainer and of the sampler, and which of them count."""
    n = len(samples) // len(prompts)
    trees = [Tree.of(p, [s.ids for s in samples[i * n : (i + 1) * n]]) for i, p in enumerate(prompts)]
    batch = collate(trees, bin_tokens=4096)
    with torch.no_grad():
        found = token_logprobs(policy, batch, temperature=temperature).logprobs
    keep = torch.arange(max(len(s.ids) for s in samples)) < torch.tensor([len(s.ids) for s in samples])[:, None]
    theirs = torch.zeros(keep.shape)
    theirs[keep] = torch.tensor([x for s in samples for x in s.logprobs])
    ours = torch.zeros(keep.shape)
    ours[keep] = torch.cat([found[batch["response"] == i] for i in range(len(samples))])
    return ours, theirs, keep


def test_the_policy_itself_is_the_default(llama_folder: str, tmp_path: Path) -> None:
    policy = loaded(llama_folder)
    sampler = load_sampler(SamplerConfig(), SAMPLING, tmp_path)
    assert isinstance(sampler, HFSampler)
    found = sampler.generate(policy, PROMPTS, 2, generators())
    options = {"n": 2, "max_new_tokens": 8, "ends": SAMPLING.ends, "temperature": 0.8}
    assert found == sample(policy, PROMPTS, generator=generators(), **options) and len(found) == 6


def test_a_server_answers_with_the_weights_of_the_moment(llama_folder: str, tmp_path: Path) -> None:
    policy = changed(loaded(llama_folder))
    engine = Engine(llama_folder)
    with serving(engine) as server:
        sampler = load_sampler(vllm(server.url), GREEDY, tmp_path)
        assert sampler.generate(policy, PROMPTS, 1, generators()) == greedy(policy)
        assert sampler.generate(changed(policy, 2), PROMPTS, 1, generators()) == greedy(policy)
    assert engine.paths.count("/collective_rpc") == engine.paths.count("/reset_prefix_cache") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["policy-2"]


@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_a_server_is_given_an_adapter_under_a_new_name_each_time(
    method: str, llama_folder: str, tmp_path: Path
) -> None:
    policy = changed(adapt(loaded(llama_folder), AdapterConfig(method, rank=4), base=llama_folder))
    engine = Engine(llama_folder)
    with serving(engine) as server:
        sampler = load_sampler(vllm(server.url), GREEDY, tmp_path)
        assert sampler.generate(policy, PROMPTS, 1, generators()) == greedy(policy)
        assert sampler.generate(changed(policy, 2), PROMPTS, 1, generators()) == greedy(policy)
        assert greedy(policy) != greedy(loaded(llama_folder))
    assert set(engine.models) == {"base", "policy-2"} and "/collective_rpc" not in engine.paths


def test_a_servers_samples_differ_within_a_prompt_and_follow_the_generators(llama_folder: str, tmp_path: Path) -> None:
    policy = loaded(llama_folder)
    with serving(Engine(llama_folder)) as server:
        sampler = load_sampler(vllm(server.url), SAMPLING, tmp_path)
        first, second = (sampler.generate(policy, PROMPTS, 4, generators()) for _ in range(2))
        asked = server.bodies[-1]
    assert first == second and len({tuple(s.ids) for s in first[:4]}) > 1
    assert (asked["top_p"], asked["top_k"], asked["repetition_penalty"]) == (1.0, 0, 1.0)
    ours, theirs, keep = trained_logprobs(policy, PROMPTS, first, SAMPLING.temperature)
    torch.testing.assert_close(ours[keep], theirs[keep], atol=1e-5, rtol=0)


def test_a_server_in_bfloat16_is_a_little_off_and_is_told_so(llama_folder: str, tmp_path: Path) -> None:
    policy = loaded(llama_folder)
    with serving(Engine(llama_folder, lambda model: model.bfloat16())) as server:
        samples = load_sampler(vllm(server.url), SAMPLING, tmp_path).generate(policy, PROMPTS, 8, generators())
    ours, theirs, keep = trained_logprobs(policy, PROMPTS, samples, SAMPLING.temperature)
    found = sampler_mismatch(ours, theirs, keep)
    assert 1e-4 < found["mean"] < 0.1 and found["mean"] < found["max"] < 0.5 and 0 < found["kl"] < 0.01
    weights = importance_weights(ours, theirs, keep, how="token", cap=2.0)
    assert (weights[keep] - 1).abs().max() < 0.7 and not weights[~keep].any()


@pytest.mark.parametrize("how", ["token", "sequence"])
def test_weights_make_an_average_over_another_samplers_responses_the_policys(
    how: str, llama_folder: str, tmp_path: Path
) -> None:
    """The server forgets to load the update: the share of a set of tokens is that of the old weights."""
    policy, prompt, one = loaded(llama_folder), PROMPTS[0], Sampling(ends=(), max_new_tokens=1, temperature=1.0)
    engine = Engine(llama_folder)
    engine.reload = lambda body: "{}"
    torch.manual_seed(0)
    with torch.no_grad():
        policy.lm_head.weight += 0.05 * torch.randn_like(policy.lm_head.weight)
        now = policy(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        before = engine.models["base"](torch.tensor([prompt])).logits[0, -1].softmax(-1)
    chosen = now > before  # where the two disagree most
    with serving(engine) as server:
        samples = load_sampler(vllm(server.url), one, tmp_path).generate(policy, [prompt], 4000, generators(1))
    ours, theirs, keep = trained_logprobs(policy, [prompt], samples, 1.0)
    weights = importance_weights(ours, theirs, keep, how=how, cap=1e4).squeeze(1)
    inside = chosen[torch.tensor([s.ids[0] for s in samples])].float()
    error = 4 * (weights * inside).std() / len(samples) ** 0.5
    assert abs((weights * inside).mean() - now[chosen].sum()) < error
    assert abs(inside.mean() - now[chosen].sum()) > error


@pytest.mark.parametrize(
    ("reply", "fault", "says"),
    [
        (giving("Not Found", 404), ConfigError, r"collective_rpc: status 404 .*VLLM_SERVER_DEV_MODE=1"),
        (giving('{"error": {"message": "busy"}}', 500), Unavailable, r"status 500 \(busy\)"),
    ],
)
def test_a_server_that_cannot_take_weights_says_what_to_do(
    reply: object, fault: type[Exception], says: str, llama_folder: str, tmp_path: Path
) -> None:
    with serving(in_turn(reply)) as server, pytest.raises(fault, match=says):
        load_sampler(vllm(server.url), SAMPLING, tmp_path).generate(loaded(llama_folder), PROMPTS, 1, generators())


@pytest.mark.parametrize(
    ("reply", "fault", "says"),
    [
        ('{"choices": [{"index": 0, "text": "x"}]}', ConfigError, "a reply without token_ids"),
        ('{"choices": []}', Unavailable, "0 responses of 1 asked for"),
        ("no json", Unavailable, "no JSON"),
    ],
)
def test_answers_that_are_none_are_not_taken(
    reply: str, fault: type[Exception], says: str, llama_folder: str, tmp_path: Path
) -> None:
    with serving(in_turn(giving(""), giving(""), giving(reply))) as server, pytest.raises(fault, match=says):
        load_sampler(vllm(server.url), SAMPLING, tmp_path).generate(loaded(llama_folder), PROMPTS, 1, generators())


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_vllm_in_this_process_without_vllm_is_a_wrong_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rl\.sampler\.engine=vllm: vLLM cannot be imported here"):
        load_sampler(SamplerConfig(engine="vllm"), SAMPLING, tmp_path)


def test_vllm_follows_no_method_that_it_cannot_load(llama_folder: str, tmp_path: Path) -> None:
    policy = adapt(loaded(llama_folder), AdapterConfig("ia3"), base=llama_folder)
    with pytest.raises(ConfigError, match="cannot follow adapter=ia3"):
        load_sampler(vllm("http://localhost:1/v1"), SAMPLING, tmp_path).generate(policy, PROMPTS, 1, generators())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "sglang"}, "expected one of hf, vllm"),
        ({"correction": "tokens"}, "expected one of null, none, token, sequence"),
        ({"cap": 0.5}, "expected at least 1"),
        ({"url": "http://localhost:8000/v1"}, "not read by rl.sampler.engine=hf"),
        ({"engine": "vllm", "url": "localhost"}, "expected an address"),
        ({"engine": "vllm", "url": "http://localhost:8000/v1"}, "rl.sampler.model has no value"),
        ({"memory": 1.0}, "expected above 0 and below 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SamplerConfig(**options)


def test_the_correction_is_on_where_the_sampler_is_another_program() -> None:
    assert SamplerConfig().how == "none"
    assert SamplerConfig(engine="vllm").how == "token"
    assert SamplerConfig(engine="vllm", correction="sequence").how == "sequence"
