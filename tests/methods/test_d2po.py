"""D2PO's arithmetic: which pairs, which labels, when, and never more of them than there is money for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sawyer.data.records import Prompt
from sawyer.errors import SawyerError
from sawyer.methods.d2po import Candidate, Label, Ledger, Offer, Schedule, agreement, candidates, choose, share_right


def offer(i: int, silver=(0.0, 1.0)) -> Offer:
    return Offer(Prompt(f"{i}?"), (f"{i} a", f"{i} bb"), silver)


class Shop:
    """Gold is the length of a text; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.written: list[dict] = []

    def __call__(self, prompts, pairs):
        self.asked += [prompt.text for prompt in prompts]
        return [[float(len(text)) for text in pair] for pair in pairs]

    def write(self, labels) -> None:
        self.written += [json.loads(json.dumps(label.row())) for label in labels]

    def ledger(self, budget: int = 10) -> Ledger:
        """One that knows what was written."""
        return Ledger(budget, [Label.of(row) for row in self.written], self.write)


def test_the_pair_is_the_best_and_the_worst_by_the_discriminator():
    texts = [["a", "b", "c"], ["a", "a ", "a"], ["a", "b", "a"]]
    silver = [[0.5, 2.0, -1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    assert candidates(texts, silver) == [Candidate(0, 1, 2, 3.0), Candidate(2, 0, 1, 0.0)]
    assert candidates(texts) == [Candidate(0, 0, 1), Candidate(2, 0, 1)]
    assert candidates([["a", "a"]], [[1.0, 0.0]]) == []


def test_the_least_sure_pairs_are_chosen():
    margins = [3.0, -0.5, 0.1, -2.0, 0.5]
    assert choose(margins, 3, "confidence", 0) == [1, 2, 4]
    assert choose(margins, 1, "confidence", 0) == [2]
    assert choose(margins, 9, "confidence", 0) == [0, 1, 2, 3, 4]
    assert choose(margins, 0, "confidence", 0) == choose(margins, 0, "random", 0) == []


def test_random_choice_depends_on_the_seed_alone():
    picks = [tuple(choose([0.0] * 20, 5, "random", seed)) for seed in range(40)]
    assert picks == [tuple(choose([9.0] * 20, 5, "random", seed)) for seed in range(40)]
    assert all(list(pick) == sorted(set(pick)) for pick in picks)
    assert {i for pick in picks for i in pick} == set(range(20))


def test_no_pair_is_paid_for_twice_in_either_order():
    shop = Shop()
    ledger = shop.ledger()
    first = ledger.buy(1, [offer(1), offer(2), offer(1)], shop)
    assert [label.gold for label in first] == [(3.0, 4.0)] * 2
    turned = Offer(Prompt("1?"), ("1 bb", "1 a"))
    assert ledger.buy(2, [turned, offer(3)], shop) == ledger.bought(2, 2)
    assert shop.asked == ["1?", "2?", "3?"]
    assert ledger.used == len(shop.written) == 3
    found = ledger.find(turned.prompt, turned.completions)
    assert found is not None
    assert [found.score(text) for text in turned.completions] == [4.0, 3.0]


def test_the_budget_holds():
    shop = Shop()
    ledger = shop.ledger(budget=3)
    assert len(ledger.buy(1, [offer(i) for i in range(2)], shop)) == 2
    assert len(ledger.buy(2, [offer(i) for i in range(9)], shop)) == 1
    assert ledger.buy(3, [offer(9)], shop) == []
    assert (ledger.used, ledger.left, len(shop.asked)) == (3, 0, 3)


def test_a_continuation_decides_as_the_first_time_and_pays_for_nothing_again():
    shop = Shop()
    whole = shop.ledger()
    for step in (1, 2, 3):
        whole.go_to(step)
        whole.buy(step, [offer(10 * step + i) for i in range(2)], shop)
    asked, written = list(shop.asked), list(shop.written)
    again = shop.ledger()
    again.go_to(2)
    assert (again.used, again.left) == (2, 8)
    assert again.find(offer(20).prompt, offer(20).completions) is None
    for step in (2, 3):
        again.go_to(step)
        assert len(again.buy(step, [offer(10 * step + i) for i in range(2)], shop)) == 2
    assert again.labels == whole.labels
    assert (shop.asked, shop.written) == (asked, written)


def test_what_a_continuation_does_not_need_again_stays_paid():
    """Where floating point does not repeat itself, other pairs may be wanted; the budget still holds."""
    shop = Shop()
    shop.ledger(4).buy(1, [offer(i) for i in range(3)], shop)
    again = shop.ledger(4)
    again.go_to(1)
    assert len(again.buy(1, [offer(i) for i in range(7, 10)], shop)) == 1
    assert len(shop.asked) == 4


@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=12), st.integers(1, 8), st.integers(0, 12))
def test_whenever_a_run_is_killed_it_asks_the_same(steps, budget, killed):
    one, two = Shop(), Shop()
    ledger = one.ledger(budget)
    for step, wanted in enumerate(steps, start=1):
        ledger.go_to(step)
        ledger.buy(step, [offer(i) for i in wanted], one)
    first = two.ledger(budget)
    for step, wanted in enumerate(steps[:killed], start=1):
        first.go_to(step)
        first.buy(step, [offer(i) for i in wanted], two)
    second = two.ledger(budget)
    for step, wanted in enumerate(steps[killed // 2 :], start=killed // 2 + 1):
        second.go_to(step)
        second.buy(step, [offer(i) for i in wanted], two)
    assert one.written == two.written
    assert len(one.written) <= budget
    if len(steps) > killed // 2:
        assert second.labels == ledger.labels


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_gold_that_is_no_number_is_one_sentence(score):
    with pytest.raises(SawyerError, match="is not a number"):
        Ledger(2).buy(1, [offer(1)], lambda prompts, pairs: [[1.0, score]])


def labels_of(schedule: Schedule, pairs_of_update: list[int], budget: int = 100) -> tuple[list[int], list[int]]:
    """How many labels each update buys, and which updates the discriminator learns in."""
    shop, bought, learned = Shop(), [], []
    ledger = shop.ledger(budget)
    for step, pairs in enumerate(pairs_of_update, start=1):
        due = schedule.due(step, ledger)
        got = ledger.buy(step, [offer(100 * step + i) for i in range(pairs)][:due], shop)
        bought.append(len(got))
        if schedule.learns(step, len(got), ledger):
            learned.append(step)
    return bought, learned


def test_a_cycle_buys_its_share_first_and_learns_from_it_once():
    assert labels_of(Schedule(5, 4), [3] * 8) == ([3, 2, 0, 0, 3, 2, 0, 0], [2, 6])
    assert labels_of(Schedule(2, 1), [3] * 3) == ([2, 2, 2], [1, 2, 3])


def test_a_cycle_that_cannot_buy_its_share_learns_at_its_end_and_the_rest_is_lost():
    assert labels_of(Schedule(5, 3), [1, 0, 2, 3, 3, 3]) == ([1, 0, 2, 3, 2, 0], [3, 5])
    assert labels_of(Schedule(5, 2), [0, 0, 0, 1]) == ([0, 0, 0, 1], [4])


def test_the_discriminator_learns_from_the_last_labels_that_the_budget_has():
    assert labels_of(Schedule(4, 4), [3] * 8, budget=6) == ([3, 1, 0, 0, 2, 0, 0, 0], [2, 5])


def test_a_schedule_without_labels_buys_nothing():
    assert labels_of(Schedule(0, 4), [3] * 4) == ([0] * 4, [])


def test_agreement_counts_what_the_discriminator_had_right():
    def label(gold, silver):
        return Label(1, ({"role": "user", "content": "?"},), ("a", "b"), gold, silver)

    told = [label((2, 1), (5, 0)), label((1, 2), (5, 0)), label((1, 2), (3, 3)), label((1, 1), (5, 0))]
    assert agreement(told) == pytest.approx(0.5)
    assert agreement([label((1, 1), (5, 0)), label((1, 0), None)]) is None
    assert share_right([(1.0, 0.5), (-1.0, 0.5), (1.0, 0.0), (0.0, 3.0)]) == 0.5
    assert label((1, 1), None).tie
    assert label((1, 2), (0, 1)).comparison().chosen == "b"
