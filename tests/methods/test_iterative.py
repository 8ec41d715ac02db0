"""How pairs are made: what the released scripts of the RLHF Workflow get wrong, done otherwise."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt
from sawyer.methods.iterative import PairSettings, Rule, choose_pairs, penalised, prompts_of_iteration

RULES = get_args(Rule)
rewards_and_texts = st.lists(
    st.tuples(st.floats(-5, 5, allow_nan=False), st.text("ab ", max_size=12)), min_size=2, max_size=8
)


def test_the_best_and_the_worst_make_the_pair():
    (pair,) = choose_pairs([[0.1, 2.0, -1.0]], [["a", "b", "c"]], PairSettings())
    assert (pair.prompt, pair.chosen, pair.rejected) == (0, 1, 2)


def test_equal_texts_and_equal_rewards_make_no_pair():
    assert choose_pairs([[1.0, 0.0]], [["same", "same "]], PairSettings()) == []
    assert choose_pairs([[1.0, 1.0]], [["one", "other"]], PairSettings()) == []


def test_pairs_closer_than_the_margin_are_dropped():
    settings = PairSettings(min_margin=0.5)
    assert choose_pairs([[1.0, 0.6]], [["one", "other"]], settings) == []
    assert len(choose_pairs([[1.0, 0.4]], [["one", "other"]], settings)) == 1


def test_the_length_penalty_can_turn_a_pair_and_the_turned_order_stands():
    long, short = "a much longer answer" * 5, "short"
    (plain,) = choose_pairs([[1.0, 0.95]], [[long, short]], PairSettings())
    (with_penalty,) = choose_pairs([[1.0, 0.95]], [[long, short]], PairSettings(length_penalty=0.001))
    assert (plain.chosen, plain.rejected) == (0, 1)
    assert (with_penalty.chosen, with_penalty.rejected) == (1, 0)


@given(rewards_and_texts, st.floats(0, 0.1))
def test_chosen_never_scores_below_rejected_by_the_penalised_reward(completions, penalty):
    rewards, texts = [list(column) for column in zip(*completions, strict=True)]
    for pair in choose_pairs([rewards], [texts], PairSettings(length_penalty=penalty)):
        scores = penalised(rewards, texts, penalty)
        assert scores[pair.chosen] == max(scores) > min(scores) == scores[pair.rejected]
        assert texts[pair.chosen].strip() != texts[pair.rejected].strip()


def test_the_rule_says_what_the_best_is_paired_with():
    rewards, texts = [[0.1, 2.0, -1.0, 1.5]] * 30, [["a", "b", "c", "d"]] * 30
    by_rule = {rule: choose_pairs(rewards, texts, PairSettings(rule=rule), seed=3) for rule in RULES if rule != "all"}
    assert {(pair.chosen, pair.rejected) for pair in by_rule["max_min"]} == {(1, 2)}
    assert {(pair.chosen, pair.rejected) for pair in by_rule["max_max"]} == {(1, 3)}
    assert {(pair.chosen, pair.rejected) for pair in by_rule["max_random"]} == {(1, 0), (1, 2), (1, 3)}
    again = choose_pairs(rewards, texts, PairSettings(rule="max_random"), seed=3)
    assert again == by_rule["max_random"] != choose_pairs(rewards, texts, PairSettings(rule="max_random"), seed=4)


def test_every_pair_that_is_apart_far_enough():
    """DNO's choice (Rosset et al. 2024): all pairs of a wide margin."""
    scores, texts = [[0.1, 2.0, -1.0, 1.5]], [["a", "b", "c", "d"]]
    pairs = choose_pairs(scores, texts, PairSettings(rule="all"))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(1, 3), (1, 0), (1, 2), (3, 0), (3, 2), (0, 2)]
    far = choose_pairs(scores, texts, PairSettings(rule="all", min_margin=1.5))
    assert [(pair.chosen, pair.rejected) for pair in far] == [(1, 0), (1, 2), (3, 2)]
    assert len(choose_pairs(scores, [["a", "b", "b", "a"]], PairSettings(rule="all"))) == 4


def test_at_random_is_not_the_first_two():
    """The released script pairs the best with the second sample, or the first where that is the best."""
    drawn = choose_pairs([[3.0, 0.0, 1.0, 2.0]] * 200, [["a", "b", "c", "d"]] * 200, PairSettings(rule="max_random"))
    counts = [sum(pair.rejected == k for pair in drawn) for k in (1, 2, 3)]
    assert min(counts) > 40


def test_iterations_take_the_next_prompts_and_go_round():
    prompts = [Prompt(str(i)) for i in range(5)]
    taken = [[p.text for p in prompts_of_iteration(prompts, 2, t)] for t in range(3)]
    assert taken == [["0", "1"], ["2", "3"], ["4", "0"]]
    assert len(prompts_of_iteration(prompts, 50, 0)) == 5
