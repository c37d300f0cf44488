import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader.llm.replies import (
    before_next_question,
    clean,
    content_overlap,
    is_refusal_or_empty,
    repeats,
    says_nothing_found,
    sentences,
    strip_reasoning,
    trim_to_sentence,
)

WORDS = st.text(string.ascii_lowercase + "äéß", min_size=1, max_size=9)
PROSE = st.lists(
    st.lists(WORDS, min_size=2, max_size=9).map(lambda w: " ".join(w).capitalize() + " indeed."),
    min_size=1,
    max_size=6,
).map(" ".join)
PIECES = st.sampled_from(
    ["<think>", "</think>", "```", "```json\n", "\n", "Sure! ", "Answer:", "**Summary**", " ", "a.",
     "Here is the summary:", "<|im_end|>", "</s>", "- ", "The king.", '"', "Mr.", "…", "。"]
)  # fmt: skip


class TestClean:
    @pytest.mark.parametrize(
        ("raw", "meant"),
        [
            ("<think>Who is she? Anna.</think>\n\nThe queen is Anna.", "The queen is Anna."),
            ("<THINKING>\nhm\n</THINKING>\nAnna", "Anna"),
            ("<mm:think>hm</mm:think>Anna", "Anna"),
            ("Who is she?\nAnna.\n</think>\n\nThe queen is Anna.", "The queen is Anna."),
            ("thoughts</think>Anna", "Anna"),
            ("<think>a</think>\n<think>b</think>\nAnna", "Anna"),
            ("<think>\nlet me see, first", ""),
            ("Anna is the queen.\n<think>\nwait", "Anna is the queen."),
            ("<think></think>Anna", "Anna"),
            ("```\nAnna\n```", "Anna"),
            ("```json\n{}\n```", "{}"),
            ("```python\nx = 1", "x = 1"),
            ("Sure! Here is the updated summary:\n\nAnna rules.", "Anna rules."),
            ("Certainly! Below is a concise answer based on the text: Anna", "Anna"),
            ("Here's the updated summary of the source text:\n- Anna rules", "- Anna rules"),
            ("Here is the answer: Anna", "Anna"),
            ("Updated summary: Anna rules.", "Anna rules."),
            ("**Updated Summary:**\nAnna rules.", "Anna rules."),
            ("**Final answer**: Anna", "Anna"),
            ("### Updated Summary\n\nAnna rules.", "Anna rules."),
            ("Answer: Anna", "Anna"),
            ("Sure, I can help with that.\n\nAnna rules.", "Anna rules."),
            ("Sure!\nAnna rules.", "Anna rules."),
            ("Sure! Here is the summary:\n```\nAnna rules.\n```", "Anna rules."),
            ("Anna<|im_end|>", "Anna"),
            ("Anna rules.</s>", "Anna rules."),
            (" Anna", "Anna"),
        ],
    )
    def test_the_wrapping_goes(self, raw, meant):
        assert clean(raw) == meant

    @pytest.mark.parametrize(
        "text",
        [
            "Sure as night follows day, the king returned.",
            "Okay, so the king left: nobody stayed.",
            "Here is where the king lived: a small house by the sea.",
            "Here is the house: it stands on a hill.",
            "Great Expectations is a novel: Pip is its hero.",
            "Note: the king left.",
            "Notes from underground: a summary follows.",
            "The answer lies in the sea: nobody knows.",
            "He wrote <b>think</b> on the wall.",
            "Models write `<think>` and `</think>` around their thoughts.",
            "The literal </think> tag ends the thoughts.",
            "    return first + second",
            "Use:\n```\nmake\n```\nand then:\n```\nmake test\n```",
            "```\nmake\n```\nand then\n```\nmake test\n```",
            "Of course he came. Here is why: he was hungry.",
            "- Anna rules\n- Bob serves",
            '"Sure," said Anna. "Here is the bread: eat."',
            "Summary courts were held: twelve men died.",
        ],
    )
    def test_ordinary_text_stays(self, text):
        assert clean(text) == text

    @settings(deadline=None)
    @given(PROSE)
    def test_plain_prose_stays(self, text):
        assert clean(text) == text

    @settings(deadline=None)
    @given(st.text() | st.lists(PIECES, max_size=12).map("".join))
    def test_twice_is_once(self, text):
        once = clean(text)
        assert clean(once) == once
        assert len(once) <= len(text)

    def test_a_talked_about_tag_after_a_real_block_stays(self):
        text = "<think>reasons</think>The literal </think> tag is stray."
        assert strip_reasoning(text) == "The literal </think> tag is stray."


NOTHING = """\
No relevant information was found.
No relevant information found in this chunk.
The text does not mention the king's name.
The provided text does not contain any information about the king's wife.
The passage doesn't say who opened the door.
The answer is not provided in the passage.
The answer to the question is not mentioned in the text.
Unanswerable
unanswerable.
Answer: Unanswerable
The question cannot be answered based on the given text.
It cannot be determined from the text.
I'm sorry, but I cannot determine the answer from the provided context.
I'm sorry, but the text does not provide enough information to answer the question.
Not mentioned.
Not mentioned in the text.
Not specified
N/A
Unknown.
NONE
I don't know.
I do not have enough information to answer this question.
There is no mention of the horse in the passage.
There is no information about the horse.
There isn't enough information in the text to say where he lived.
Based on the provided text, there is no information about where he lived.
Unfortunately, the document does not specify the year.
The context does not provide details about the year. Therefore, the answer is unknown.
The passage only describes the castle. It does not mention the queen.
The text discusses the castle. However, it does not mention the queen's name.
The name of the queen is not stated.
The queen's age is never mentioned in the story.
The story doesn't explicitly state her age, so it cannot be determined.
This chunk is not relevant to the question.
The passage is unrelated to the question.
It is not possible to determine her age from the text.
It's impossible to tell from the passage.
Insufficient information.
Not enough information to answer.
No answer found.
No information about the queen is available in the given excerpt.
I could not find any information about the queen in the document.
I couldn't find the answer.
Nothing relevant was found in this section.
The summary does not include any information on the treaty. Please provide more context.
There is nothing in the text about the treaty.
- King's name: Not mentioned
**Answer:** The text does not say.
<think>let me look</think>
None of the passages mention the treaty.
The information needed to answer this question is not present in the text.
As the text does not mention the treaty, the question cannot be answered.
More information is needed to answer the question.
The specific date is not given in the text.
The summary remains unchanged, as the new text contains no relevant information.
It is unclear from the passage.
Neither of the passages mentions the treaty.
The source text does not reveal who the father was.
The text provides no information on this.
The given passage does not provide any details regarding the name of the princess.
The name of the princess is not provided in the given text.
There is no specific mention of the princess's age in the text provided.
The text you provided does not mention anything about a princess.
Based on the information provided, it is not possible to determine the answer.
I cannot find any information regarding the princess in the text.
The excerpt doesn't include that information.
That information is not available in the text.
This information is not included in the summary.
Unfortunately, the summary does not contain the answer to this question.
The answer is not explicitly stated in the text.
The source does not specify.
The summary of the source text does not mention what the princess wore.
The question cannot be answered with the given information.
The question is unanswerable.
No such person is mentioned in the text.
No details are given about her age.
The provided context doesn't contain enough information to answer "Who is she?"
There is insufficient information to answer the question.
It is not mentioned in the text.
It is not clear from the text who the princess is.
It's not specified in the provided passage.
I'm sorry, I couldn't find the answer to your question in the text.
I am unable to answer as the text does not provide information about it.
Nothing in the text indicates who she is.
The story does not explicitly mention the princess's name. It only refers to her as "the princess".
The princess's name is not given.
No answer can be found in the text.
No relevant facts found.
No mention.
The passage makes no mention of the princess.
The document does not appear to contain information about the princess.
The text provided is about frogs and does not mention the princess.
None of the provided passages contain the answer.
The chunk contains no information relevant to the question.
There is no answer to the question in the text.
The answer to this question cannot be found in the given text.
Not enough context.
Cannot be determined.
Cannot answer from the text.
Question: Who is she? Answer: The text does not say.
The text does not state this.
Her name isn't revealed in this passage.
The summary does not provide a clear answer to the question.
No information.
No evidence found.
Sorry, I don't know.
There are no facts in this text that answer the question.
This part of the text does not mention the princess and adds nothing to the summary.
The text does not provide information on this, so the question cannot be answered.
""".splitlines()
NOTHING.remove("<think>let me look</think>")

SOMETHING = """\
It does not mention the king, but the queen is Anna.
The text does not mention the king. The queen is Anna.
The queen is Anna; the king is not mentioned.
Although the passage does not name the king, it says that the queen is Anna.
The passage doesn't say, so Anna probably lives in Paris.
The text does not say who he was, only that he was old.
Anna did not mention her son to anyone.
The king did not say where he had hidden the gold.
The gold was not found in the palace.
The letter is not mentioned again after 1805.
His eldest son is not mentioned in the will.
He does not know his father.
Nobody knows where the treasure lies.
The queen is unknown to the people of the village.
An unknown man opened the door.
Nothing.
None.
No.
No, he did not.
No king has ever lived there.
There was no bread left in the house.
There is no evidence that he was murdered, and the judge let him go.
There were no survivors.
"I don't know," said the king.
The king could not find his horse.
The soldiers could not be found.
Information about the attack reached the general too late.
The general did not have enough information to attack.
The document was not signed.
The book is about a king who lost his crown.
Anna
42
Paris, since the passage says that she moved there in 1805.
The context says that the king died. No cause is given.
She was not given the letter.
The answer was clear to him: he had to leave.
The report says that no one was hurt.
The first chunk does not mention her age. The second says that she was twelve.
Bob refused to answer the question.
The question of the succession cannot be separated from the war.
Not guilty.
Not far from the river.
It is impossible to cross the river in winter.
He could not determine the depth of the river.
Rumpelstiltskin; the name is not given by the king but overheard by the messenger.
The story never says that he was a king, but calls him a prince.
The princess is named Ella. The text does not provide her surname.
It was not stated who won, but Bob got the medal.
The contract does not specify a term; it may be ended at any time.
She was unknown to everyone at the ball.
The prince did not answer.
No one.
Nobody.
There is no cure.
He did not know the answer.
The question was not answered by the minister.
The report does not mention the fire because the captain hid it.
The author could not find a publisher.
No, the text says that he stayed.
The data were not available to the public until 1990.
The information was provided by the police.
The details of the plan were found in his desk.
The story is about a frog.
Unknown Soldier
It is not possible to enter the castle without the key.
The missing page was not found.
The section of the wall was never found.
Her will did not mention him.
The article was not published.
The model cannot answer questions about dates.
The document does not give the buyer a right to terminate.
The contract does not provide for arbitration.
They found no evidence of fraud.
No data were collected in 2012.
No information was lost.
""".splitlines()


@pytest.mark.parametrize("text", NOTHING)
def test_nothing_found_is_heard(text):
    assert says_nothing_found(text)


@pytest.mark.parametrize("text", SOMETHING)
def test_an_answer_is_not_taken_for_nothing(text):
    assert not says_nothing_found(text)


@settings(deadline=None)
@given(st.text() | PROSE)
def test_no_text_breaks_the_tests_for_emptiness(text):
    assert says_nothing_found(text) in (True, False)
    assert is_refusal_or_empty(text) in (True, False)
    assert not says_nothing_found(text) or text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "...",
        "<think>no end",
        "```\n```",
        "I'm sorry, but I can't assist with that.",
        "I\u2019m sorry, but I cannot help with this request.",
        "I cannot fulfill this request.",
        "As an AI language model, I cannot read documents.",
        "I am unable to process the text.",
        "Please provide the text you would like me to summarize.",
        "I apologize, but I cannot provide a summary. Please provide more text.",
        "I don't have access to the document.",
        "I can't help with that. However, I can help you with other questions.",
        "It seems you haven't provided any text.",
    ],
)
def test_refusals_and_empty_replies(text):
    assert is_refusal_or_empty(text)


@pytest.mark.parametrize(
    "text",
    [
        "Anna is sorry, but she cannot help him.",
        "I cannot help it, said the king, and left for Paris.\nHe died there in 1805.",
        "The king refused to help.",
        "I'm sorry for the confusion. The queen is Anna.",
        "5",
        "Not mentioned in the text.",
        "I'm sorry, but I can't assist with that. The king, though, is Edward.",
    ],
)
def test_replies_with_content_are_no_refusals(text):
    assert not is_refusal_or_empty(text)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Anna.\n\nQuestion: And Ben?\nAnswer: No.\n\nQuestion: And Ben?\nAns", "Anna."),
        ("Anna.\n**Question 2:** And Ben?\n\n**Answer 2:** No.", "Anna."),
        ("The paper asks:\nQuestion: who rules?", "The paper asks:\nQuestion: who rules?"),
        ("Question: who?\nAnswer: Anna.", "Question: who?\nAnswer: Anna."),
        ("\nQuestion: who?\nAnswer: Anna.", "\nQuestion: who?\nAnswer: Anna."),
    ],
)
def test_a_model_that_asks_itself_more_is_cut_before_that(reply, answer):
    assert before_next_question(reply) == answer


@pytest.mark.parametrize(
    ("reply", "says_it_again"),
    [
        ("Is the deposit 100 euros?", True),
        ("**Question:** is the  deposit 100 euros", False),
        ("is the deposit\n100 euros.", True),
        ("The deposit is 100 euros.", False),
        ("", False),
    ],
)
def test_a_question_said_again_is_no_answer(reply, says_it_again):
    assert repeats(reply, "Is the deposit 100 euros?") == says_it_again


def test_long_replies_are_read_in_linear_time():
    # would not end within the life of the test run if a pattern backtracked badly
    for unit in (
        "the text ",
        "as the, ",
        "there is no , ",
        "based on the text, ",
        "<think>",
        "a. ",
    ):
        text = unit * 2000
        says_nothing_found(text)
        is_refusal_or_empty(text)
        clean(text)


class TestSentences:
    def pieces(self, text):
        return [text[a:b] for a, b in sentences(text)]

    def test_ends(self):
        text = (
            'He came. "Did he?" she asked. Yes! They left…  Then 3.5 miles on, e.g. west, Mr. Fox'
        )
        assert self.pieces(text) == [
            "He came.",
            '"Did he?" she asked.',
            "Yes!",
            "They left…",
            "Then 3.5 miles on, e.g. west, Mr. Fox",
        ]

    def test_abbreviations_and_initials(self):
        text = "Dr. J. Smith met Mrs. Jones at No. 5. It rained."
        assert self.pieces(text) == ["Dr. J. Smith met Mrs. Jones at No. 5.", "It rained."]

    def test_lists_and_paragraphs(self):
        text = "Facts\n- one\n- two\n\nA line that\nwraps here. End"
        assert self.pieces(text) == [
            "Facts",
            "- one",
            "- two",
            "A line that\nwraps here.",
            "End",
        ]
        assert self.pieces("1. One.\n2. Two.") == ["1. One.", "2. Two."]

    def test_full_width_stops(self):
        assert self.pieces("王来了。她走了\uff01") == ["王来了。", "她走了\uff01"]

    @settings(deadline=None)
    @given(st.text() | st.lists(PIECES, max_size=20).map("".join))
    def test_ranges_hold_everything_but_blanks_in_order(self, text):
        at, between = 0, ""
        for start, end in sentences(text):
            assert at <= start < end <= len(text)
            between += text[at:start]
            at = end
        assert (between + text[at:]).strip() == ""


class TestTrim:
    def test_a_full_text_loses_nothing(self):
        assert trim_to_sentence('He said "Go."') == ('He said "Go."', 0.0)

    def test_back_to_the_last_full_sentence(self):
        text, lost = trim_to_sentence("The king left. The queen st")
        assert text == "The king left."
        assert lost == pytest.approx(13 / 27)

    def test_an_abbreviation_at_the_cut_is_no_end(self):
        assert trim_to_sentence("It rained. Then came Mr.")[0] == "It rained."

    def test_list_items_before_the_cut_stay(self):
        text, lost = trim_to_sentence("Facts:\n- the king left\n- the queen stayed\n- the hor")
        assert text == "Facts:\n- the king left\n- the queen stayed"
        assert 0 < lost < 0.25

    def test_without_a_full_sentence_the_words_stay_and_are_marked(self):
        assert trim_to_sentence("the king and the que") == ("the king and the", 1.0)

    @settings(deadline=None)
    @given(st.text() | PROSE)
    def test_only_the_end_goes(self, text):
        kept, lost = trim_to_sentence(text)
        assert text.startswith(kept)
        assert 0.0 <= lost <= 1.0

    @settings(deadline=None)
    @given(PROSE, WORDS)
    def test_full_sentences_before_the_cut_all_stay(self, prose, word):
        assert trim_to_sentence(f"{prose} And {word}")[0] == prose


class TestOverlap:
    def test_shares(self):
        assert content_overlap("The king left Paris", "In Paris, a queen.") == pytest.approx(1 / 3)
        assert content_overlap("Anna's crown", "The crown of Anna") == 1.0
        assert content_overlap("king", "queen") == 0.0
        assert content_overlap("of the", "queen") == 1.0

    @settings(deadline=None)
    @given(st.text())
    def test_a_text_holds_itself(self, text):
        assert content_overlap(text, text) == 1.0
