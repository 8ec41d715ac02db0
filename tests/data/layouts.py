"""Invented rows in the layouts of the published sets."""

import json
from typing import ClassVar


def write(folder, rows, name="train.jsonl"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Loaded(list):
    """As a data set of the hub lies in its cache: in a folder named by the commit."""

    cache_files: ClassVar = [{"filename": f"/cache/some___set/en/0.0.0/{'ab' * 20}/set-train.arrow"}]


def shp(post="p1", a=10, b=2, label=None, text_a="Long answer.", text_b="Short answer.", **more):
    return {
        "post_id": post,
        "domain": "askcooks_train",
        "upvote_ratio": 0.97,
        "history": f"How do I boil an egg in {post}?",
        "c_root_id_A": "x",
        "c_root_id_B": "y",
        "score_A": a,
        "score_B": b,
        "human_ref_A": text_a,
        "human_ref_B": text_b,
        "labels": int(a > b) if label is None else label,
        "score_ratio": max(a, b) / max(min(a, b), 1),
        **more,
    }


def helpsteer(response, helpfulness, correctness, prompt="What is a fjord?"):
    rest = {"coherence": 4, "complexity": 1, "verbosity": 2}
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": correctness, **rest}


RATED = [helpsteer("Best.", 4, 4), helpsteer("Good.", 4, 2), helpsteer("Same.", 2, 4), helpsteer("Bad.", 0, 1)]


def pku(better=0, safer=1, safe=(False, True), **more):
    return {
        "prompt": "How do I open a lock?",
        "response_0": "With a pick, like so.",
        "response_1": "Call a locksmith.",
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "better_response_id": better,
        "safer_response_id": safer,
        **more,
    }


def ultrafeedback(*ratings, source="evol_instruct", overall=10):
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "source": source,
        "instruction": "Name a river.",
        "models": [f"model-{i}" for i in range(len(ratings))],
        "completions": [
            {
                "model": f"model-{i}",
                "principle": "helpfulness",
                "response": f"River {i}.",
                "annotations": {a: {"Rating": str(r), "Rationale": "..."} for a, r in zip(aspects, own, strict=True)},
                "overall_score": overall,
                "fine-grained_score": 1.0,
            }
            for i, own in enumerate(ratings)
        ],
    }


def four_and_two():
    return ultrafeedback((4,) * 4, (2,) * 4)


def code(*ratings):
    return {
        "instruction": "Write a loop.",
        "preference": "code-readability",
        "models": [f"m{i}" for i in range(len(ratings))],
        "responses": [{"model": f"m{i}", "response": f"for {i}"} for i in range(len(ratings))],
        "annotations": [{"model": f"m{i}", "rating": r, "rationale": "..."} for i, r in enumerate(ratings)][::-1],
    }


def interact(trajectory=(("user", "1 + 1?"),), task="Math_CoT"):
    return {
        "task": task,
        "dataset": "gsm8k",
        "trajectory": [{"from": speaker, "value": said} for speaker, said in trajectory],
        "chosen": "It is 2.",
        "rejected": "It is 3.",
        "id": "1",
        "parent_id": "0",
    }


def orca(rating, status="unchanged", **more):
    return {
        "system": "Be brief.",
        "input": "Why?",
        "chosen": "Because.",
        "rejected": "No.",
        "generations": ["Because.", "No."],
        "order": ["chosen", "rejected"],
        "labelling_model": ["gpt-4-1106-preview"],
        "rating": rating,
        "status": status,
        "chosen_score": max(rating) if rating else None,
        "in_gsm8k_train": False,
        **more,
    }


def capybara(context=("Hi", "Hello", "Why?"), other=None, ratings=(5, 3)):
    def talk(turns, answer):
        roles = ("user", "assistant")
        said = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
        return [*said, {"role": "assistant", "content": answer}]

    return {
        "source": "Airoboros",
        "conversation": [{"input": "Hi", "output": "Hello"}],
        "chosen": talk(context, "Because."),
        "rejected": talk(other or context, "No."),
        "rating_chosen": ratings[0],
        "rating_rejected": ratings[1],
        "chosen_model": "original",
        "rejected_model": "notus7b",
    }


def summary(choice=1, post="We hiked all day.", confidence=None, **info):
    return {
        "info": {
            "id": "t3",
            "post": post,
            "title": "A hike",
            "subreddit": "trips",
            "site": None,
            "article": None,
            **info,
        },
        "summaries": [
            {"text": " They hiked.", "policy": "sup4", "note": None},
            {"text": " They hiked all day.", "policy": "ref", "note": None},
        ],
        "choice": choice,
        "worker": "w1",
        "batch": "batch3",
        "split": "train",
        "extra": {"confidence": confidence},
    }


def webgpt(score, quotes=None):
    return {
        "question": {"dataset": "eli5", "id": "q", "full_text": f"Why is the sky blue? {score}"},
        "quotes_0": quotes or {"title": [], "extract": []},
        "answer_0": "Scattering [1].",
        "tokens_0": {"prefix": [], "completion": []},
        "score_0": score,
        "quotes_1": {"title": [], "extract": []},
        "answer_1": "Nobody knows.",
        "tokens_1": {"prefix": [], "completion": []},
        "score_1": -score,
    }


def farm(preference, **more):
    texts = {"instruction": f"Name a colour {preference}.", "input": "", "output_1": "Red.", "output_2": "A stone."}
    return {**texts, "preference": preference, "raw_preference": 3, **more}


def nectar(ranks, prompt="\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: ", **more):
    answers = [{"answer": f" Answer {rank}.", "model": f"model-{i}", "rank": rank} for i, rank in enumerate(ranks)]
    return {
        "prompt": prompt,
        "answers": answers,
        "turns": 2,
        "num_responses": len(ranks),
        "source": ["sharegpt"],
        **more,
    }


def message(id, text, role="assistant", rank=None, replies=(), parent=None, **more):
    own = {
        "message_id": id,
        "parent_id": parent,
        "text": text,
        "role": role,
        "lang": "en",
        "deleted": False,
        "rank": rank,
    }
    return {**own, "synthetic": False, "replies": list(replies), **more}


def tree():
    follow_up = message(
        "c", "And then?", "prompter", rank=0, replies=[message("d", "Yes", rank=1), message("e", "No", rank=0)]
    )
    answers = [
        message("b", "Second", rank=1, synthetic=True, model_name="chip20b"),
        message("a", "First", rank=0, replies=[follow_up]),
        message("f", "Third", rank=3),
        message("g", "Unranked"),
        message("h", "Gone", rank=2, deleted=True),
    ]
    root = message("root", "Tell me.", "prompter", replies=answers)
    return {"message_tree_id": "root", "tree_state": "ready_for_export", "prompt": root}


def gpt4_llm(davinci, gpt4, icm):
    scores = {"text-davinci-003": davinci, "gpt4": gpt4, "icm-1.3b": icm}
    return {
        "user_input": "Below is a task.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:",
        "responses_and_scores": [
            {"response": f"By {source}.", "source": source, "score": score}
            for source, score in scores.items()
            if score is not None
        ],
    }


def dolly(instruction="Name a river.", context="", response="The Rhine.", category="open_qa"):
    return {"instruction": instruction, "context": context, "response": response, "category": category}
