"""How pairs are made: what the released scripts of the RLHF Workflow get wrong, done otherwise."""

from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt
from sawyer.methods.iterative import PairSettings, best_and_worst, penalised, prompts_of_iteration

rewards_and_texts = st.lists(
    st.tuples(st.floats(-5, 5, allow_nan=False), st.text("ab ", max_size=12)), min_size=2, max_size=8
)


def test_the_best_and_the_worst_make_the_pair():
    (pair,) = best_and_worst([[0.1, 2.0, -1.0]], [["a", "b", "c"]], PairSettings())
    assert (pair.prompt, pair.chosen, pair.rejected) == (0, 1, 2)


def test_equal_texts_and_equal_rewards_make_no_pair():
    assert best_and_worst([[1.0, 0.0]], [["same", "same "]], PairSettings()) == []
    assert best_and_worst([[1.0, 1.0]], [["one", "other"]], PairSettings()) == []


def test_pairs_closer_than_the_margin_are_dropped():
    settings = PairSettings(min_margin=0.5)
    assert best_and_worst([[1.0, 0.6]], [["one", "other"]], settings) == []
    assert len(best_and_worst([[1.0, 0.4]], [["one", "other"]], settings)) == 1


def test_the_length_penalty_can_turn_a_pair_and_the_turned_order_stands():
    long, short = "a much longer answer" * 5, "short"
    (plain,) = best_and_worst([[1.0, 0.95]], [[long, short]], PairSettings())
    (with_penalty,) = best_and_worst([[1.0, 0.95]], [[long, short]], PairSettings(length_penalty=0.001))
    assert (plain.chosen, plain.rejected) == (0, 1)
    assert (with_penalty.chosen, with_penalty.rejected) == (1, 0)


@given(rewards_and_texts, st.floats(0, 0.1))
def test_chosen_never_scores_below_rejected_by_the_penalised_reward(completions, penalty):
    rewards, texts = [list(column) for column in zip(*completions, strict=True)]
    for pair in best_and_worst([rewards], [texts], PairSettings(length_penalty=penalty)):
        scores = penalised(rewards, texts, penalty)
        assert scores[pair.chosen] == max(scores) > min(scores) == scores[pair.rejected]
        assert texts[pair.chosen].strip() != texts[pair.rejected].strip()


def test_iterations_take_the_next_prompts_and_go_round():
    prompts = [Prompt(str(i)) for i in range(5)]
    taken = [[p.text for p in prompts_of_iteration(prompts, 2, t)] for t in range(3)]
    assert taken == [["0", "1"], ["2", "3"], ["4", "0"]]
    assert len(prompts_of_iteration(prompts, 50, 0)) == 5
