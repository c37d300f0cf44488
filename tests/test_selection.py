import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.errors import InvalidOption
from reader.selection import normalise, token_f1, vote


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The King of France.", "king of france"),
        ("twelve", "12"),
        ("Twenty-one", "21"),
        ("two hundred and five", "205"),
        ("three thousand four hundred", "3400"),
        ("a hundred men", "hundred men"),
        ("one million", "1000000"),
        ("1,200", "1200"),
        ("1,200,300.50", "1200300.5"),
        ("3.0", "3"),
        ("1,2", "1,2"),
        ("one, two and three", "1 2 and 3"),
        ("5%", "5 percent"),
        ("didn't", "did not"),
        ("can\u2019t", "can not"),
        ("Anna's", "annas"),
        ("\uff21nna", "anna"),
        ("", ""),
        ("The.", ""),
    ],
)
def test_normal_form(answer, normal):
    assert normalise(answer) == normal


@settings(deadline=None)
@given(st.text())
def test_normalising_twice_is_once(text):
    once = normalise(text)
    assert normalise(once) == once


def test_token_f1_as_squad_counts():
    assert token_f1("the king", "King!") == 1.0
    assert token_f1("king", "queen") == 0.0
    assert token_f1("old king", "king") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1.0
    assert token_f1("", "king") == 0.0
    assert token_f1("king king", "king") == pytest.approx(2 / 3)


@settings(deadline=None)
@given(st.text(), st.text())
def test_token_f1_is_a_symmetric_share(a, b):
    assert token_f1(a, b) == token_f1(b, a)
    assert 0.0 <= token_f1(a, b) <= 1.0
    assert token_f1(a, a) == 1.0


class TestVote:
    def test_the_same_in_other_words_votes_together(self):
        result = vote(["London", "12 men", "Twelve men.", "the 12 men"])
        assert result.index == 1
        assert result.sizes == (3, 1)
        assert result.clusters == ((1, 2, 3), (0,))
        assert not result.tie

    def test_ties_are_said_and_the_first_leads(self):
        result = vote(["Paris", "London", "paris", "london"])
        assert (result.index, result.sizes, result.tie) == (0, (2, 2), True)
        assert vote(["Paris", "London"]).tie
        assert not vote(["Paris"]).tie

    def test_an_empty_answer_never_wins(self):
        result = vote(["", " ", "...", "Paris"])
        assert (result.index, result.sizes, result.tie) == (3, (1,), False)
        assert vote(["", ""]).index == 0

    def test_the_middle_of_a_cluster_stands_for_it(self):
        answers = [
            "the old king lived in a castle there then",
            "old king lived in castle",
            "the king lived in a castle",
        ]
        assert vote(answers).index == 1

    def test_one_number_or_one_not_makes_another_answer(self):
        long = "he died in the town of Paris in the year 180{} after a long illness"
        assert vote([long.format(5), long.format(6), long.format(6)]).sizes == (2, 1)
        assert vote(["He was found guilty of it all", "He was not found guilty of it all"]).tie

    def test_answers_without_blanks_between_words(self):
        assert vote(["他住在北京城里", "住在北京城里", "上海"]).sizes == (2, 1)

    def test_nothing_to_vote_on(self):
        with pytest.raises(InvalidOption):
            vote([])

    @settings(deadline=None)
    @given(st.lists(st.text(max_size=12), min_size=1, max_size=7))
    def test_every_answer_that_says_something_is_counted_once(self, answers):
        result = vote(answers)
        counted = sorted(i for cluster in result.clusters for i in cluster)
        assert counted == [i for i, a in enumerate(answers) if normalise(a)]
        assert 0 <= result.index < len(answers)
        assert list(result.sizes) == sorted(result.sizes, reverse=True)
        if result.clusters:
            assert result.index in result.clusters[0]
