"""What `sawyer compare` is asked for: models, feedback, decodings and prompts by name, and what is refused."""

import json
from pathlib import Path

import pytest

from sawyer.apps import compare_request, named_feedback
from sawyer.apps.compare_request import Request, check, check_remote, drawn, held_out
from sawyer.apps.compared_models import find_model, find_models
from sawyer.apps.decodings import decodings_of
from sawyer.apps.named_feedback import Asking, find_feedback
from sawyer.data.files import write_rows
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.models.load import load_sequence_classifier, load_tokenizer
from sawyer.models.save import save_model
from sawyer.pipeline.artifact import write_manifest
from sawyer.rollout.api_settings import ApiSettings
from sawyer.rollout.sampling import Sampling

PROMPTS = make_prompts(2, "test")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sawyer.pipeline.artifact.git_commit", lambda: None)


def model(place, makes=None):
    """A folder that looks like a model, or a finished stage."""
    folder = Path(place)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    if makes is not None:
        facts = {"stage": makes, "name": folder.name, "makes": makes, "settings": {}, "inputs": {}, "recipe_seed": 0}
        write_manifest(folder, {**facts, "fingerprint": "f", "figures": {}})
    return str(folder)


def a_run(place, *stages):
    """A run whose stages made policies, the last of them not yet."""
    Path(place).mkdir(parents=True, exist_ok=True)
    for stage in stages:
        model(Path(place) / stage, "policy")
    entry = {"kind": "dpo", "makes": "policy", "wall_seconds": 1.0}
    states = {stage: {**entry, "state": "finished"} for stage in stages} | {"later": {**entry, "state": "waiting"}}
    summary = {"recipe": "r", "title": "", "seed": 0, "state": "finished", "stages": states}
    (Path(place) / "summary.json").write_text(json.dumps(summary))
    return str(place)


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_may_be_named_in_many_ways():
    a_run("runs/a", "sft", "ppo")
    found = find_models(["runs/a", "runs/a/sft", model("plain"), "qwen3@http://localhost:1/v1", "org/hub-name"])
    assert [one.name for one in found] == ["a/ppo", "sft", "plain", "qwen3", "hub-name"]
    assert found[0].places == ("runs/a/ppo",)
    assert found[3].endpoint == "http://localhost:1/v1"
    assert found[3].places == ("qwen3",)


def test_names_tell_models_apart():
    for run in ("runs/a", "runs/b"):
        a_run(run, "sft")
    same = model("plain")
    found = find_models(["runs/a/sft", "runs/b/sft", same, same])
    assert [one.name for one in found] == ["a/sft", "b/sft", "plain", "plain (2)"]
    assert [one.copy for one in found] == [0, 0, 0, 1]


def test_several_seeds_are_one_model_of_several_trainings():
    for seed in (0, 3):
        a_run(f"runs/five/seed-{seed}", "sft", "ppo")
    Path("runs/five/seeds.json").write_text(json.dumps({"recipe": "r", "seeds": [0, 3]}))
    last, sft = find_models(["runs/five", "runs/five/sft"])
    assert (last.name, last.seeds) == ("five/ppo", (0, 3))
    assert last.place(3) == "runs/five/seed-3/ppo"
    assert sft.places == ("runs/five/seed-0/sft", "runs/five/seed-3/sft")
    with pytest.raises(SawyerError, match=r"several trainings, of the seeds 0, 3; name one"):
        find_model("runs/five")


def test_trainings_of_other_seeds_cannot_be_paired():
    for name, seed in (("x", 0), ("y", 1)):
        for number in (seed, 9):
            a_run(f"runs/{name}/seed-{number}", "sft")
        Path(f"runs/{name}/seeds.json").write_text(json.dumps({"recipe": "r", "seeds": [seed, 9]}))
    with pytest.raises(SawyerError, match=r"seeds 0, 9 and runs/y with 1, 9"):
        find_models(["runs/x", "runs/y"])


def test_what_does_not_answer_is_no_model(saved_policy, tmp_path):
    data = Path("runs/r/prompts")
    data.mkdir(parents=True)
    facts = {"stage": "data", "name": "prompts", "makes": "prompts", "settings": {}, "inputs": {}}
    write_manifest(data, {**facts, "fingerprint": "f", "figures": {}})
    reward = Path("reward")
    reward.mkdir()
    (reward / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    for given, why in (
        (str(data), "what a stage `data` made and no model that answers"),
        ("reward", "a reward model, which answers nothing; give it as --feedback"),
        ("no/such/place", "There is no model at no/such/place"),
        ("@http://x/v1", "names no model"),
    ):
        with pytest.raises(SawyerError, match=why):
            find_models([given, "smollm2"])
    with pytest.raises(SawyerError, match="at least two"):
        find_models(["smollm2"])
    a_run("runs/empty")
    with pytest.raises(SawyerError, match="no stage of the run runs/empty has made a policy yet"):
        find_models(["runs/empty", "smollm2"])


# --- decodings --------------------------------------------------------------------------------------------------------


def test_the_grid_is_four_ways_of_decoding():
    found = decodings_of(["grid"], {"max_tokens": 9})
    assert list(found) == ["greedy", "nucleus", "beam", "contrastive"]
    assert found["nucleus"] == Sampling(top_p=0.95, top_k=50, max_tokens=9)
    assert found["contrastive"] == Sampling(temperature=0, penalty_alpha=0.6, top_k=4, max_tokens=9)
    assert found["beam"].num_beams == 5
    assert list(decodings_of(["greedy,sample", "nucleus"], {})) == ["greedy", "sample", "nucleus"]


def test_without_a_name_the_options_are_what_is_drawn():
    assert decodings_of([], {"max_tokens": 9}) == {"sample": Sampling(max_tokens=9)}
    assert decodings_of([], {"temperature": 0.7}) == {"given": Sampling(temperature=0.7)}


def test_what_contradicts_a_decoding_is_refused():
    with pytest.raises(SawyerError, match="there is no decoding 'greedyy'; did you mean 'greedy'"):
        decodings_of(["greedyy"], {})
    with pytest.raises(SawyerError, match="--top-k is what --decoding nucleus sets"):
        decodings_of(["nucleus"], {"top_k": 3})
    with pytest.raises(SawyerError, match="--decoding beam: num_beams 5 searches and does not sample: leave out min_p"):
        decodings_of(["beam"], {"min_p": 0.1})
    found = find_models(["m@http://x/v1", "org/other"])
    with pytest.raises(SawyerError, match="m cannot decode by beam: num_beams cannot be asked of a remote endpoint"):
        check_remote(found, decodings_of(["grid"], {}), ApiSettings(vendor_options=True))


def test_a_search_has_one_answer_whatever_the_seed():
    assert drawn("greedy", Sampling(temperature=0), 4, [0, 1], trained=False)["seeds"] == [0]
    assert drawn("greedy", Sampling(temperature=0), 4, [0, 1], trained=False)["samples"] == 1
    assert drawn("greedy", Sampling(temperature=0), 4, [0, 1], trained=True)["seeds"] == [0, 1]
    assert drawn("sample", Sampling(), 4, [0, 1], trained=False)["samples"] == 4


# --- feedback ---------------------------------------------------------------------------------------------------------


def test_feedback_by_name(saved_policy):
    policy = saved_policy("llama")
    save_model(load_sequence_classifier(policy, fresh_head=True), load_tokenizer(policy), Path("reward"))
    given = [
        "verifiable",
        "length",
        "reward",
        f"pairwise:{policy}",
        f"judge:{policy}",
        "rating:m@http://x/v1",
        "random",
    ]
    given += [f"dpo:{policy},{policy}", "bag_of_words:ice,snow"]
    found = find_feedback(given, [], PROMPTS, Asking())
    assert [one.role for one in found] == [
        "gold", "rule", "reward model", "preference model", "judge", "rating", "random", "reward model", "rule",
    ]  # fmt: skip
    assert [one.prefers for one in found] == [False, False, False, True, True, False, False, False, False]
    assert found[0].name == "gold"
    assert found[4].scorer.protocol["both_orders"]
    assert found[5].name == "rating m"


def test_gold_is_taken_where_nothing_is_named_and_prompts_have_it():
    (gold,) = find_feedback([], [], PROMPTS, Asking())
    assert gold.given == "verifiable"
    write_rows("p.jsonl", [{"prompt": "Why?"}])
    plain = held_out("p.jsonl", 5, print)
    with pytest.raises(SawyerError, match="say what the answers are judged by: --feedback"):
        find_feedback([], [], plain, Asking())
    with pytest.raises(SawyerError):
        find_feedback(["verifiable"], [], plain, Asking())


def test_the_proxy_is_known_by_what_a_model_was_trained_on(monkeypatch):
    monkeypatch.setattr(named_feedback, "rewarded_by", lambda lineage, subject: subject == "length")
    found = find_feedback(["length", "random"], find_models([model("a", "policy"), model("b")]), PROMPTS, Asking())
    assert [one.trained for one in found] == [("a",), ()]
    assert [one.title for one in found] == ["length (proxy)", "random"]


def test_what_is_no_feedback_is_refused(saved_policy):
    policy = saved_policy("llama")
    for given, why in (
        ("lenght", "--feedback lenght is no rule and no folder"),
        (policy, "is a language model and no reward model: say how it is to judge, judge:"),
        ("judge:", "names no model; write judge:MODEL"),
        (f"dpo:{policy}", "needs the policy's reference; write dpo:POLICY,REFERENCE"),
    ):
        with pytest.raises(SawyerError, match=why):
            find_feedback([given], [], PROMPTS, Asking())


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_are_evenly_spaced_and_each_is_asked_once():
    said = []
    write_rows("p.jsonl", [{"prompt": f"Question {i % 10}?"} for i in range(12)] + [{"prompt": 5}])
    assert [prompt.text for prompt in held_out("p.jsonl", 5, said.append)] == [
        f"Question {i}?" for i in range(0, 10, 2)
    ]
    assert len(held_out("p.jsonl", 100, said.append)) == 10
    assert said[0].startswith("1 rows of p.jsonl hold no usable prompt and are left out; the first is 13: ")
    assert "2 prompts of p.jsonl stand there twice and are asked once" in said
    assert len(held_out("verifiable", 7, said.append)) == 7


def test_prompts_of_a_published_set_are_its_test_split(monkeypatch):
    asked = []
    monkeypatch.setattr(compare_request, "load_source", lambda settings: (asked.append(settings) or PROMPTS, None))
    assert held_out("hh", 9, print) == PROMPTS
    held_out("dolly/train", 9, print)
    assert [(one.source, one.split) for one in asked] == [("hh", "test"), ("dolly", "train")]
    with pytest.raises(SawyerError, match="--prompts doly is no file and no published set; did you mean 'dolly'"):
        held_out("doly", 9, print)
    with pytest.raises(SawyerError, match="mix1 is a mixture"):
        held_out("mix1", 9, print)


def test_numbers_that_make_no_sense_are_refused():
    Path("file").write_text("")
    for wrong, why in (
        ({"n": 0}, "--n is 0"), ({"limit": 0}, "--limit is 0"), ({"against": "one"}, "choose all or first"),
        ({"out": Path("file")}, "is a file; give a folder"),
    ):  # fmt: skip
        with pytest.raises(SawyerError, match=why):
            check(Request(("a", "b"), "p.jsonl", **wrong))
