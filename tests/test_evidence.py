from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reader.documents import Document
from reader.evidence import Candidate, Claim, QuoteFinder, candidates, cite, quoted_strings
from reader.folding import Folded, content_words

# From Benjamin Franklin's autobiography, with the line breaks and signs of a typeset book.
ROLLS = """\
I was dirty from my journey; my pockets were stuff\u2019d out with shirts and
stockings, and I knew no soul nor where to look for lodging. My whole stock of
cash consisted of a Dutch dollar, and about a shilling in cop-
per. Then I asked for a three-penny loaf, and was told they had none such. He
gave me, accordingly, three great puffy rolls.  I was surpris\u2019d at the
quantity, but took it, and, having no room in my pockets, walk\u2019d off with a
roll under each arm, and eating the other."""
INN = """\
\u201cHere,\u201d says he, \u201cis one place that entertains strangers, but it is not a
reputable house; if thee wilt walk with me, I\u2019ll show thee a better.\u201d He brought
me to the Crooked Billet in Water-street. Here I got a dinner; and, while I was
eating it, several sly questions were asked me\u2014as it seemed to be suspected from
my youth and appearance that I might be some runaway\u2026"""
FAMILY = """\
My grandfather Thomas, who was born in 1598, lived at Ecton till he grew too old
to follow business longer. There my grandfather died and lies buried. We saw his
gravestone in 1758. My grandfather had four sons that grew up."""
TALE = "\n\n".join((ROLLS, INN, FAMILY))
FIRST = (0, len(ROLLS))
SECOND = (len(ROLLS) + 2, len(ROLLS) + 2 + len(INN))
finder = QuoteFinder(TALE)


def plain(text: str) -> str:
    return Folded(text).text


# The four outcomes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quote", "passage"),
    [
        ("three great puffy rolls", "three great puffy rolls"),
        (
            "three great puffy rolls. I was surpris'd",
            "three great puffy rolls.  I was surpris\u2019d",
        ),
        ('"about a shilling in copper."', "about a shilling in cop-\nper."),
        ("stuff'd out with shirts and stockings", "stuff\u2019d out with shirts and\nstockings"),
        ("\u2018three-penny loaf\u2019", "three-penny loaf"),
        ("threepenny loaf", "three-penny loaf"),
        (
            "walk\u2019d off with a roll under each arm.",
            "walk\u2019d off with a\nroll under each arm",
        ),
    ],
)
def test_exact_whatever_the_white_space_and_the_signs(quote, passage):
    match = finder.find(quote, within=FIRST)
    assert match is not None
    assert (match.kind, TALE[match.start : match.end].rstrip(".")) == ("exact", passage.rstrip("."))


def test_dashes_and_ellipses_are_folded():
    match = finder.find("were asked me -- as it seemed", within=SECOND)
    assert match is not None
    assert match.kind == "exact"
    assert TALE[match.start : match.end] == "were asked me\u2014as it seemed"
    assert finder.find("that I might be some runaway...", within=SECOND).kind == "exact"


def test_near_is_snapped_to_words():
    match = finder.find("He gave me, acordingly, three great pufy roll", within=FIRST)
    assert match is not None
    assert match.kind == "near"
    assert (
        plain(TALE[match.start : match.end]) == "He gave me, accordingly, three great puffy rolls"
    )
    assert 87 <= match.score < 100


def test_another_case_is_near():
    match = finder.find("My Pockets were stuff'd out with shirts", within=FIRST)
    assert (match.kind, match.score) == ("near", 100)


def test_elsewhere_when_it_was_not_where_the_model_read():
    exact = finder.find("He brought me to the Crooked Billet", within=FIRST)
    near = finder.find("He brought me to a Crooked Billet in Water street", within=FIRST)
    assert exact.kind == near.kind == "elsewhere"
    assert TALE[exact.start : exact.end] == "He brought\nme to the Crooked Billet"


def test_a_quote_over_the_border_of_the_chunk_is_elsewhere():
    match = finder.find("and eating the other. Here, says he, is one place", within=FIRST)
    assert match is not None
    assert match.kind == "elsewhere"


@pytest.mark.parametrize(
    "quote",
    [
        "He gave me a purse of silver and a letter for the governor",
        "The king of Spain gave the sailor a golden ring",
        "gave I three the puffy me rolls pockets in other journey",
        "",
        "...",
        '"".,',
        "Zanzibar",
    ],
)
def test_invented(quote):
    assert finder.find(quote, within=FIRST) is None
    assert finder.find(quote) is None


def test_without_a_chunk_the_whole_text_counts_as_read():
    assert finder.find("three great puffy rolls").kind == "exact"
    assert finder.find("brought me to a Crooked Billet in Water street").kind == "near"


# What near must not forgive -----------------------------------------------------------------


@pytest.mark.parametrize(
    "quote",
    [
        "My grandfather Thomas, who was born in 1589, lived at Ecton",
        "My grandfather had five sons that grew up",
        "but it is a reputable house; if thee wilt walk with me",
        "My grandfather Thomas, who was not born in 1598, lived at Ecton",
        "He gave me, accordingly, two great puffy rolls",
        "He gave me, accordingly, great puffy rolls",
    ],
)
def test_another_number_or_negation_is_invented(quote):
    assert finder.find(quote) is None
    assert finder.find(quote, within=(0, len(TALE))) is None


def test_the_same_number_in_figures_or_words_is_the_same():
    assert finder.find("My grandfather had 4 sons that grew up").kind == "near"


def test_a_like_sentence_with_the_right_number_is_found_behind_one_with_a_wrong_one():
    text = (
        "In the year 1812 the old harbour of Bergen burned down. "
        "In the year 1821 the old harbour at Bergen burned down."
    )
    match = QuoteFinder(text).find("In the year 1821 the old harbour of Bergen burned down")
    assert match is not None
    assert match.kind == "near"
    assert "1821" in text[match.start : match.end]


def test_short_quotes_are_found_word_for_word_only():
    assert finder.find("Ecton").kind == "exact"
    assert finder.find("Ektons") is None
    assert finder.find("the dog") is None
    assert finder.find("cash", within=FIRST).kind == "exact"
    assert finder.find("oll") is None, "inside of a word"


# Ellipses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dots", ["...", "\u2026", " ... ", " [...] ", " (\u2026) "])
def test_pieces_of_a_quote_with_an_ellipsis_match_in_order(dots):
    match = finder.find(f"I was dirty from my journey{dots}three great puffy rolls", within=FIRST)
    assert match is not None
    assert match.kind == "exact"
    passage = TALE[match.start : match.end]
    assert passage.startswith("I was dirty")
    assert passage.endswith("puffy rolls")


def test_pieces_in_another_order_or_far_apart_do_not_match():
    assert finder.find("three great puffy rolls ... I was dirty from my journey") is None
    far = QuoteFinder(ROLLS + "\n\n" + "Nothing of note happened. " * 200 + FAMILY)
    assert far.find("three great puffy rolls ... saw his gravestone in 1758") is None


def test_a_near_piece_makes_the_whole_near():
    match = finder.find("I was dirty from my jorney ... three great puffy rolls")
    assert match is not None
    assert match.kind == "near"


# Any text -----------------------------------------------------------------------------------

word = st.text(
    st.sampled_from("abcdefghijklmnopqrstuvwxyz\u00e4\u00e9\u00f1\ufb01"), min_size=2, max_size=9
)
gap = st.one_of(
    st.sampled_from([" ", "\n", "  ", "\r\n", "\n\n", "\u00a0", ", ", ". ", "... ", "-", "-\n"]),
    st.sampled_from(["\u2014", " -- ", " \u201c", "\u2019", "\u2026 ", "\u00ad", "\u200b "]),
    st.sampled_from([" ", "\n", " 1812\u20131815 "]),
)
texts = st.lists(st.tuples(word, gap), min_size=12, max_size=60).map(
    lambda pairs: "".join(a + b for a, b in pairs)
)


@given(texts, st.data())
@settings(deadline=None)
def test_any_substring_is_exact_and_its_range_reads_the_same(text, data):
    start = data.draw(st.integers(0, len(text) - 20))
    end = data.draw(st.integers(start + 20, min(start + 120, len(text))))
    quote = text[start:end]
    found = QuoteFinder(text)
    # An ellipsis cut in two is another text.
    assume(not (quote.startswith(".") or quote.endswith(".")))
    # A single cut word is too short to be found inside of another.
    assume(len(content_words(plain(quote).strip(" -\"'*_"))) > 1)
    for within in (None, (0, len(text))):
        match = found.find(quote, within=within)
        assert match is not None
        assert match.kind == "exact"
        edges = " -\"'*_.,"
        assert plain(text[match.start : match.end]).strip(edges) == plain(quote).strip(edges)


NOUNS = "harbour lantern miller orchard garden basket shepherd window candle river"


@given(st.integers(0, 10**6), st.sampled_from(["drop", "double", "swap"]))
@settings(deadline=None, max_examples=60)
def test_a_few_wrong_characters_are_near(seed, damage):
    words = NOUNS.split()
    text = " ".join(words[(seed // 7**i) % 10] + words[(seed // 3**i) % 7] for i in range(30))
    at = seed % (len(text) - 100)
    quote = text[at : at + 80]
    for spot in (70, 41, 12):
        letter = quote[spot]
        broken = {"drop": "", "double": letter * 2, "swap": "x"}[damage]
        quote = quote[:spot] + broken + quote[spot + 1 :]
    match = QuoteFinder(text).find(quote)
    assert match is not None
    assert match.kind == ("exact" if plain(quote).strip() in text else "near")
    assert text[match.start : match.end] == text[match.start : match.end].strip()


consonants = st.lists(st.text("bcdfghjk", min_size=3, max_size=8), min_size=4, max_size=20)
vowels = st.lists(st.text("lmpqrstvwx", min_size=3, max_size=8), min_size=4, max_size=20)


@given(consonants, vowels)
@settings(deadline=None)
def test_words_of_another_text_are_never_found(text, quote):
    assert QuoteFinder(" ".join(text * 5)).find(" ".join(quote)) is None


@given(st.text(max_size=200), st.text(max_size=60))
@settings(deadline=None)
def test_no_input_breaks_it_and_ranges_lie_in_the_text(text, quote):
    match = QuoteFinder(text).find(quote)
    if match is not None:
        assert 0 <= match.start < match.end <= len(text)


def long_text() -> str:
    filler = "The old sea was calm and the sails of the ship hung down in the heat of day {}. "
    parts = [filler.format(i) for i in range(4000)]
    parts[1234] = TALE.replace("\n\n", " ") + " "
    return "".join(parts)


def test_elsewhere_in_a_long_text():
    text = long_text()
    found = QuoteFinder(text)
    for quote in (
        "a Dutch dollar, and about a shilling in copper",
        "He gave me, acordingly, three graet puffy rolls",
        "I was dirty from my journey ... three great puffy rolls",
        "that I might be some runaway\u2026",
    ):
        match = found.find(quote, within=(0, 6000))
        assert match is not None, quote
        assert match.kind == "elsewhere"
        assert text[match.start : match.end] in text
    assert found.find("the sails of the ship hung down in the heat of day 3987").kind == "exact"
    assert found.find("the sails of the ship hung down in the heat of day 4987") is None
    assert found.find("a bag of gold for the governor of the province", within=(0, 6000)) is None


def test_elsewhere_in_a_long_text_of_ever_new_words():
    numbered = (f"w{i:x}q{i * 7919 % 1000003:x}" for i in range(150_000))
    text = " ".join(numbered) + " " + TALE
    match = QuoteFinder(text).find("walk'd off with a roll under each arm", within=(0, 6000))
    assert match is not None
    assert match.kind == "elsewhere"


def test_a_quote_of_common_words_is_found_where_its_words_stand_in_every_block():
    line = "he was in the house and she was not there with him at all that night. "
    text = line * 6000 + "then he and she were all in that house with him at night. " + line * 6000
    match = QuoteFinder(text).find("then he and she were all in that house with him at night")
    assert match is not None
    assert match.kind == "exact"


def test_text_without_spaces_between_words():
    text = (
        "\u6614\u8005\u838a\u5468\u5922\u70ba\u80e1\u8776\uff0c\u6829\u6829\u7136\u80e1"
        "\u8776\u4e5f\u3002\u81ea\u55bb\u9069\u5fd7\u8207\uff01\u4e0d\u77e5\u5468\u4e5f\u3002"
    )
    match = QuoteFinder(text * 2).find(
        "\u6829\u6829\u7136\u80e1\u8776\u4e5f\u3002\u81ea\u55bb\u9069\u5fd7\u8207"
    )
    assert match is not None
    assert match.kind == "exact"
    assert (
        QuoteFinder(text).find(
            "\u5317\u51a5\u6709\u9b5a\uff0c\u5176\u540d\u70ba\u9be4\u3002\u9be4\u4e4b\u5927"
        )
        is None
    )


# Notes --------------------------------------------------------------------------------------


def test_quoted_strings():
    note = (
        'The baker says "three great puffy rolls" and \u201cwas told they had none such\u201d.\n'
        'Then \u00aba shilling in copper\u00bb, \u201ea roll under each arm\u201c; "too short".\n'
        "- Quote: I knew no soul nor where to look\n"
        '- **Quote:** "having no room in my pockets"\n'
        "2) Quotation 1: the quantity was great\n"
        'Again "three great puffy rolls".'
    )
    assert quoted_strings(note) == [
        "three great puffy rolls",
        "was told they had none such",
        "a shilling in copper",
        "a roll under each arm",
        "I knew no soul nor where to look",
        "having no room in my pockets",
        "the quantity was great",
    ]


@pytest.mark.parametrize(
    "note",
    [
        "The sailors' boats didn't reach the king's ship, 'tis said, for the men's fear.",
        "It is 5' 11\" tall and the other one is 6' 2\" tall.",
        "He didn\u2019t see the sailors\u2019 boats and wouldn\u2019t say so.",
        'An open mark " is alone here and never closed.',
        'First "paragraph is open.\n\nSecond paragraph closes" it.',
    ],
)
def test_apostrophes_and_lone_marks_quote_nothing(note):
    assert quoted_strings(note) == []


def test_candidates_are_quotes_and_plain_sentences():
    note = (
        "Franklin reached Philadelphia hungry and without friends. Yes. "
        'He says "three great puffy rolls" were given to him.\n'
        "- He lodged at the Crooked Billet in Water-street."
    )
    assert candidates(note) == [
        Candidate("three great puffy rolls", True),
        Candidate("Franklin reached Philadelphia hungry and without friends.", False),
        Candidate("He lodged at the Crooked Billet in Water-street.", False),
    ]


# Citations ----------------------------------------------------------------------------------

DOCUMENT = Document.from_text(TALE, title="Life")


def look_up(*claims: Claim, question: str = "", answer: str = "", limit: int = 5):
    text = QuoteFinder(DOCUMENT.text)
    return cite(DOCUMENT, text, claims, question=question, answer=answer, limit=limit)


def test_invented_quotes_are_dropped_and_counted_plain_sentences_are_not():
    result = look_up(
        Claim("three great puffy rolls", within=FIRST),
        Claim("a golden ring from the king of Spain", within=FIRST),
        Claim("Crooked Billet in Water-street", within=FIRST),
        Claim("The traveller was glad about the warm welcome he got", claimed=False),
        answer="three rolls at the Crooked Billet",
    )
    assert (result.invented, result.checked) == (1, 3)
    assert {c.match for c in result.citations} == {"exact", "elsewhere"}
    assert all(c.text == DOCUMENT.text[c.start : c.end] for c in result.citations)


def test_what_supports_the_answer_comes_first_and_what_supports_nothing_goes():
    claims = [
        Claim("There my grandfather died and lies buried"),
        Claim("my pockets were stuff'd out with shirts"),
        Claim("He brought me to the Crooked Billet in Water-street"),
    ]
    result = look_up(
        *claims, question="Where did he sleep, with what pockets?", answer="Crooked Billet"
    )
    assert [c.text.split()[0] for c in result.citations] == ["He", "my"]
    alone = look_up(claims[0], question="Who?", answer="Nobody knows")
    assert len(alone.citations) == 1, "nothing else remains"


def test_the_words_that_the_answer_adds_to_the_question_decide():
    claims = [
        Claim("My grandfather Thomas, who was born in 1598"),
        Claim("There my grandfather died and lies buried. We saw his gravestone in 1758"),
    ]
    result = look_up(
        *claims,
        question="When did the family see the gravestone of the grandfather who was born at Ecton?",
        answer="The family saw the gravestone of the grandfather in 1758",
    )
    assert "1758" in result.citations[0].text


def test_an_answer_that_only_repeats_the_question_still_decides():
    result = look_up(
        Claim("He brought me to the Crooked Billet in Water-street"),
        Claim("My grandfather Thomas, who was born in 1598, lived at Ecton"),
        question="Was it the Crooked Billet in Water-street, or Ecton?",
        answer="Ecton",
    )
    assert "Ecton" in result.citations[0].text


def test_overlapping_quotes_become_one_citation():
    result = look_up(
        Claim("He gave me, accordingly, three great puffy"), Claim("three great puffy rolls")
    )
    assert [plain(c.text) for c in result.citations] == [
        "He gave me, accordingly, three great puffy rolls"
    ]


def test_a_plain_sentence_close_to_the_text_cites_the_sentence_that_stands_there():
    result = look_up(
        Claim("He brought him to the Crooked Billet in Water street", claimed=False),
        answer="The Crooked Billet",
    )
    (citation,) = result.citations
    assert plain(citation.text) == "He brought me to the Crooked Billet in Water-street.".replace(
        "-s", "s"
    )
    assert citation.match == "near"


def test_what_a_plain_sentence_leads_in_with_may_be_the_models_own():
    claim = Claim(
        "The text tells us that he walked off with a roll under each arm, eating the other one",
        claimed=False,
    )
    (citation,) = look_up(claim, answer="a roll under each arm").citations
    assert "roll under each arm" in plain(citation.text)
    assert plain(citation.text).startswith("I was surpris'd at the quantity")


def test_a_plain_sentence_that_ends_in_another_number_cites_nothing():
    text = "The road is long. The secret number of the quiet wagon is 4173656. It rains often."
    document, finder = Document.from_text(text), QuoteFinder(text)

    def cited(said):
        claims = [Claim(said, claimed=False)]
        found = cite(document, finder, claims, question="Which number?", answer=said)
        return [c.text for c in found.citations]

    assert cited("The secret number of the quiet wagon is 12.") == []
    right = "The secret number of the quiet wagon is 4173656."
    assert cited(right) == [right]
    assert right in cited(f"{right[:-1]}, as the author says.")[0]


@pytest.mark.parametrize(
    "said",
    [
        "It is not true that the tenant may keep a small dog in the flat.",
        "The tenant may keep a small dog in the flat, but never a cat.",
        "The tenant may keep a small dog in the flat: no, he can't.",
    ],
)
def test_a_plain_sentence_that_denies_what_stands_there_cites_nothing(said):
    text = "Rent is due in May. The tenant may keep a small dog in the flat. It rains often."
    claims = [Claim(said, claimed=False)]
    document, finder = Document.from_text(text), QuoteFinder(text)
    assert not cite(document, finder, claims, question="A dog?", answer=said).citations
    agreed = [Claim("No, the tenant may keep a small dog in the flat.", claimed=False)]
    assert cite(document, finder, agreed, question="A dog?", answer="No").citations


def test_at_most_so_many_citations_and_none_without_claims():
    words = re.findall(r"\w+ \w+ \w+ \w+", ROLLS)[:8]
    assert len(look_up(*map(Claim, words), answer="rolls", limit=2).citations) <= 2
    assert look_up() == ((), 0, 0)


def test_a_sentence_without_end_is_cited_in_part_only():
    text = (
        "and so the road went on, " * 60 + "past the mill of the red miller, " + "on and on, " * 90
    )
    document = Document.from_text(text)
    claim = Claim("The road went past the mill of the red miller on and on", claimed=False)
    result = cite(document, QuoteFinder(text), [claim], question="", answer="the mill")
    assert all(len(c.text) <= 400 for c in result.citations)
    assert result.citations


def test_citations_name_document_page_and_section():
    one = Document.from_text("# Rolls\n\nHe gave me three great puffy rolls.", name="one.md")
    two = Document.from_text("# Inn\n\nHe brought me to the Crooked Billet.", name="two.md")
    both = Document.collection([one, two])
    claim = Claim("brought me to the Crooked Billet")
    (citation,) = cite(both, QuoteFinder(both.text), [claim], question="", answer="").citations
    assert citation.document == "two.md"
    assert citation.page is None
    (alone,) = cite(
        one, QuoteFinder(one.text), [Claim("three great puffy")], question="", answer=""
    ).citations
    assert alone.document is None
