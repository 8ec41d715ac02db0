"""From answers to attributes, to a policy that can be asked for them, to its answers."""

import json

import pytest
import torch

from sawyer.apps.engines import local_engine
from sawyer.apps.request import Request
from sawyer.data.attributes import ATTRIBUTES, Range, Scheme, conditioned, conditioned_prompt
from sawyer.data.chat import ChatFormat
from sawyer.data.files import read_records
from sawyer.data.records import Comparison, Conversation, Prompt, assistant, user
from sawyer.data.verifiable import make_prompts
from sawyer.errors import SawyerError
from sawyer.models.heads import attach_fresh_head
from sawyer.models.load import load_body, load_policy, load_tokenizer
from sawyer.models.multi_objective import MultiObjectiveHead
from sawyer.models.save import save_model
from sawyer.pipeline.context import Artifact, Context
from sawyer.pipeline.plan import plan
from sawyer.pipeline.progress import Voice
from sawyer.pipeline.recipe import load_recipe
from sawyer.pipeline.stages import attributes, evaluate, generate, sft
from sawyer.pipeline.stages._conditioned import conditioned_trees
from sawyer.rollout.protocol import Sampling
from sawyer.rollout.torch_engine import TorchEngine

LENGTH = {"length": {"by": "length", "edges": [3, 6]}}
TALKS = [
    Conversation((user("What is a river?"), assistant("Water that flows.")), {"topic": "river"}),
    Conversation((user("Hello"), assistant("Yes?"), user("And a town?"), assistant("Many people in one place."))),
    Conversation((user("And a word?"), assistant("It."))),
]


@pytest.fixture
def stage(tmp_path):
    """`stage(STAGE, artifacts, base=..., **settings)`: folder and figures of one run; artifacts by name."""
    runs = []

    def run(one, artifacts, base=None, **settings):
        runs.append(one)
        out, scratch = tmp_path / f"out-{len(runs)}", tmp_path / f"scratch-{len(runs)}"
        out.mkdir()
        scratch.mkdir()
        models = {} if base is None else {"base": str(base)}
        context = Context("stage", out, scratch, seed=1, artifacts=artifacts, models=models)
        figures = one.run(one.settings(**settings), context)
        context.close()
        return out, figures

    return run


@pytest.fixture
def data(tmp_path):
    """`data(train=records)`: an artifact of them; rows may be given as JSON too."""

    def write(makes="data", **parts):
        folder = tmp_path / f"data-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for part, rows in parts.items():
            lines = [json.dumps(row if isinstance(row, dict) else row.row()) for row in rows]
            (folder / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (folder / "metrics.jsonl").write_text("")
        return {"answers": Artifact(folder, {"name": "answers", "makes": makes})}

    return write


def found(folder, part="train"):
    records = read_records(folder / f"{part}.jsonl", kind=Conversation)
    return [(record.messages[-1]["content"], record.info["attributes"]) for record in records]


def test_the_last_answer_is_measured_by_rule(stage, data):
    folder, figures = stage(attributes.STAGE, data(train=TALKS, test=TALKS[:1]), data="answers", measured=LENGTH)
    assert [values for _, values in found(folder)] == [{"length": 1}, {"length": 1}, {"length": 0}]
    assert [record.messages for record in read_records(folder / "train.jsonl")] == [talk.messages for talk in TALKS]
    assert read_records(folder / "train.jsonl")[0].info["topic"] == "river"
    assert figures == {"train": 3, "test": 1, "attributes": {"length": {"0": 1, "1": 3}}}
    only, _ = stage(
        attributes.STAGE, data(train=TALKS, test=TALKS[:1]), data="answers", measured=LENGTH, parts=["test"]
    )
    assert not (only / "train.jsonl").exists()


def test_every_completion_is_measured(stage, data):
    (prompt,) = make_prompts(1, "train")
    texts = ["No.", "It is a thing of which one may say very much indeed."]
    measured = {**LENGTH, "gold": {"by": "verifiable", "edges": [0.2, 0.5, 0.8]}}
    rows = [{**prompt.row(), "samples": [{"text": text} for text in texts]}]
    folder, _ = stage(attributes.STAGE, data("completions", train=rows), data="answers", measured=measured)
    assert [(text, values["length"]) for text, values in found(folder)] == [(texts[0], 0), (texts[1], 2)]
    ranking = data(train=[Comparison(prompt.prompt, tuple(texts), None, {**prompt.info, "models": ["a", "b"]})])
    again, _ = stage(attributes.STAGE, ranking, data="answers", measured=measured)
    assert found(again) == found(folder)
    assert "models" not in read_records(again / "train.jsonl")[0].info


@pytest.fixture
def rater(tmp_path, saved_policy):
    """A folder that rates `kind` and `clear`, from weights drawn at random."""
    folder = tmp_path / "rater"
    save_model(load_body(saved_policy()), load_tokenizer(saved_policy()), folder)
    head = MultiObjectiveHead(["kind", "clear"], 32, hidden=4, layers=1)
    torch.manual_seed(0)
    head.weight_A_D.normal_()
    head.mean_A.copy_(torch.tensor([2.0, 50.0]))
    head.sd_A.copy_(torch.tensor([3.0, 0.1]))
    head.save(folder)
    return folder


def test_a_model_rates_in_its_own_units_on_the_scale(stage, data, rater):
    from sawyer.feedback.multi_objective import MultiObjectiveReward

    answers = data(train=TALKS)
    folder, _ = stage(attributes.STAGE, answers, rater, data="answers", model="base", measured=LENGTH)
    prompts, texts = [Prompt(talk.messages[:-1]) for talk in TALKS], [[talk.messages[-1]["content"]] for talk in TALKS]
    reward = MultiObjectiveReward(str(rater))
    ratings = [own[0] for own in reward.ratings(prompts, texts)]
    one_by_one = [
        reward.breakdown(p, own[0])["attributes"]["kind"]["rating"] for p, own in zip(prompts, texts, strict=True)
    ]
    assert [rating["kind"] for rating in ratings] == pytest.approx(one_by_one, abs=1e-4)
    assert [values["kind"] for _, values in found(folder)] == [min(4, max(0, round(r["kind"]))) for r in ratings]
    assert all(values["clear"] == 4 and "length" in values for _, values in found(folder))
    wide, _ = stage(
        attributes.STAGE, answers, rater, data="answers", model="base", only=["clear"], highest=99, lowest=-9
    )
    assert [values for _, values in found(wide)] == [{"clear": round(r["clear"])} for r in ratings]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"only": ["funny"]}, "rates no attribute 'funny'; it rates kind, clear"),
        ({"measured": {"kind": {"by": "length", "edges": [1]}}}, "'kind' is measured, and base rates it too"),
        ({"parts": ["test"]}, "answers has no part 'test'; it has train"),
    ],
)
def test_mistakes_with_a_model_are_named(settings, said, stage, data, rater):
    with pytest.raises(SawyerError, match=said):
        stage(attributes.STAGE, data(train=TALKS), rater, data="answers", model="base", **settings)


def test_a_plain_reward_model_and_bare_prompts_are_refused(stage, data, saved_policy, tmp_path):
    plain = save_model(attach_fresh_head(load_policy(saved_policy())), load_tokenizer(saved_policy()), tmp_path / "r")
    with pytest.raises(SawyerError, match="base gives one score and no attributes"):
        stage(attributes.STAGE, data(train=TALKS), plain, data="answers", model="base")
    with pytest.raises(SawyerError, match="'train' of answers has prompts and no answers"):
        stage(attributes.STAGE, data(train=[Prompt("Why?")]), data="answers", measured=LENGTH)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "name an attribute `model`"),
        ({"measured": LENGTH, "highest": 5}, "`highest` is for a `model`"),
        ({"model": "base", "lowest": 4}, "not below `highest`"),
        ({"measured": {"a b": LENGTH["length"]}}, "cannot be called 'a b'"),
        ({"measured": {"length": {"by": "length", "edges": [3, 3]}}}, "must ascend"),
        ({"measured": {"length": {"by": "length", "edges": [3], "words": ["a"]}}}, "no other measure takes them"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        attributes.Settings(data="answers", **settings)


# --- a policy that can be asked ---------------------------------------------------------------------------------------


@pytest.fixture
def steered(stage, data, saved_policy):
    """A tiny policy after two updates with attributes: folder and artifact."""
    records = [
        Conversation(t.messages, {"attributes": {"length": n % 3, "kind": 2.6}}) for n, t in enumerate(TALKS * 2)
    ]
    folder, _ = stage(
        sft.STAGE, data(train=records), saved_policy(), model="base", data="answers", condition="attributes",
        epochs=1, batch_size=3, max_tokens=200,
    )  # fmt: skip
    return folder, Artifact(folder, {"name": "steer", "makes": "policy", "figures": {}})


def test_training_asks_for_what_the_answer_has_and_learns_the_last_answer_alone(data, saved_policy, tmp_path):
    chat = ChatFormat(load_tokenizer(saved_policy()))
    rated = Conversation(TALKS[1].messages, {"attributes": {"length": 1.2}})
    context = Context("stage", tmp_path, tmp_path, seed=0, artifacts=data(train=[rated]))
    (tree,), scheme = conditioned_trees(context, sft.Settings(model="base", data="answers"), "train", chat)
    assert list(tree.prompt) == chat.prompt_ids(conditioned(rated.messages[:-1], {"length": 1}))
    assert list(tree.completions[0]) == chat.completion_ids("Many people in one place.")
    assert scheme == Scheme({"length": Range(1, 1, 1)})


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (TALKS[0], "has no `attributes`"),
        (Conversation((assistant("Hi"),), {"attributes": {"length": 1}}), "is no prompt and an answer"),
    ],
)
def test_data_that_nothing_can_be_asked_of_is_refused(record, said, stage, data, saved_policy):
    with pytest.raises(SawyerError, match=said):
        stage(sft.STAGE, data(train=[record]), saved_policy(), model="base", data="answers", condition="attributes")


def test_the_policy_keeps_its_scheme_and_is_asked_by_it(stage, data, steered):
    folder, artifact = steered
    assert Scheme.load(folder) == Scheme({"kind": Range(3, 3, 3), "length": Range(0, 2, 1)})
    prompts = [Prompt("What is a river?"), Prompt("And a town?")]
    artifacts = {**data(train=prompts), "steer": artifact}
    asked = {"model": "steer", "data": "answers", "n": 2, "sampling": {"max_tokens": 8}}
    out, figures = stage(generate.STAGE, artifacts, attributes={"length": 2}, **asked)
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert figures["attributes"] == {"kind": 3, "length": 2}
    engine = TorchEngine(load_policy(str(folder)), ChatFormat(load_tokenizer(str(folder))))
    shown = [conditioned_prompt(prompt, {"kind": 3, "length": 2}) for prompt in prompts]
    direct = engine.generate(shown, Sampling(max_tokens=8), 2, seed=1)
    assert [[sample["ids"] for sample in row["samples"]] for row in rows] == [
        [list(c.ids) for c in own] for own in direct
    ]
    assert [row["prompt"] for row in rows] == [list(prompt.prompt) for prompt in prompts]

    request = Request(
        str(folder), folder / "p", folder / "o", sampling=Sampling(max_tokens=8), attributes={"length": 2}
    )
    local, _ = local_engine(request, Voice())
    assert local.generate(prompts, Sampling(max_tokens=8), 2, seed=1) == direct


def test_a_policy_is_evaluated_at_each_level_that_is_asked_for(stage, data, steered):
    prompts = make_prompts(3, "test")
    out, figures = stage(
        evaluate.STAGE, {**data(test=prompts), "steer": steered[1]}, policies=["steer"], data="answers", gold="length",
        n=1, sampling={"max_tokens": 6}, reference="steer", asked={
            "short": {"policy": "steer", "attributes": {"length": 0}},
            "long": {"policy": "steer", "attributes": {"length": 2, "kind": 3}},
        },
    )  # fmt: skip
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["order"] == ["steer", "short", "long"]
    assert evaluation["asked"] == {"short": {"kind": 3, "length": 0}, "long": {"kind": 3, "length": 2}}
    assert figures["headline"].split()[0] == "long" or "between long and steer" in figures["headline"]
    assert figures["policies"]["steer"]["kl"]["mean"] == 0 != figures["policies"]["short"]["kl"]["mean"]
    assert all({"gold", "tokens"} <= figures["policies"][name].keys() for name in evaluation["order"])
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert all("[attributes]" not in row["prompt"][-1]["content"] for row in rows)


def test_names_of_asked_policies_are_their_own():
    one = {"policy": "steer", "attributes": {"length": 1}}
    for name in ("steer", "a b", "best-of"):
        with pytest.raises(ValueError, match="cannot be called"):
            evaluate.Settings(policies=["steer"], data="d", asked={name: one})


RECIPE = """
name: r
model: {model}
stages:
  talks: {{stage: data, source: {{source: file, path: {talks}}}}}
  rated: {{stage: attributes, data: talks, measured: {{length: {{by: length, edges: [3, 6]}}}}}}
  plain: {{stage: sft, model: base, data: talks}}
  steer: {{stage: sft, model: base, data: rated, condition: attributes}}
  answers: {{stage: generate, model: {policy}, data: rated, attributes: {{{attributes}}}}}
"""


@pytest.mark.parametrize(
    ("policy", "asked", "said"),
    [
        ("steer", "length: 2", None),
        (
            "steer",
            "size: 2",
            "stages.answers.attributes: steer was not trained with an attribute 'size'; it knows length",
        ),
        ("steer", "length: 3", "length is to be 3, but steer was trained with length from 0 to 2"),
        ("plain", "length: 2", "plain is not trained with attributes"),
        ("base", "length: 2", "base was not trained with attributes, for its folder has no attributes.json"),
    ],
)
def test_what_a_recipes_policy_will_not_know_is_found_before_it_is_trained(policy, asked, said, saved_policy, tmp_path):
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk.row()) + "\n" for talk in TALKS))
    file = tmp_path / "r.yaml"
    file.write_text(
        RECIPE.format(model=saved_policy(), talks=tmp_path / "talks.jsonl", policy=policy, attributes=asked)
    )
    if said is None:
        plan(load_recipe(str(file), []))
        return
    with pytest.raises(SawyerError, match=said):
        plan(load_recipe(str(file), []))


def test_the_command_line_asks_by_the_scheme(command, saved_policy, tmp_path):
    (tmp_path / "questions.txt").write_text("What is a river?\n")
    Scheme({"length": Range(0, 2, 1)}).save(saved_policy())
    fixed = ["generate", "--model", saved_policy(), "--prompts", tmp_path / "questions.txt", "--max-tokens", "4"]
    code, _, err = command(*fixed, "--out", tmp_path / "a.jsonl", "--attributes", "length=9")
    assert (code, err.count("error: ")) == (2, 1)
    assert "trained with length from 0 to 2" in err
    code, _, _ = command(*fixed, "--out", tmp_path / "a.jsonl", "--attributes", "length=2")
    assert code == 0
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert (row["attributes"], row["prompt"]) == ({"length": 2}, [user("What is a river?")])
    code, _, err = command(*fixed[:-2], "--endpoint", "http://localhost:1/v1", "--out", tmp_path / "b.jsonl",
                           "--attributes", "length=2")  # fmt: skip
    assert code == 2
    assert "--attributes is for local models" in err
    assert (tmp_path / f"{saved_policy()}" / ATTRIBUTES).exists()
