from __future__ import annotations

import pytest
from pydantic import ValidationError

from reader.errors import UnknownModel
from reader.llm.catalogue import catalogue, entry


def test_the_three_models_of_the_documentation_are_there():
    assert {e.name: (e.bytes, e.window) for e in catalogue()} == {
        "embedded": (491_400_064, 32_768),
        "embedded:large": (1_117_320_768, 32_768),
        "embedded:tiny": (98_362_432, 8_192),
    }


def test_every_model_says_what_a_user_must_know_and_has_a_second_source():
    for model in catalogue():
        assert model.title
        assert model.licence == "Apache-2.0"
        assert model.wheels
        assert len({w.distribution for w in model.wheels}) == len(model.wheels)


def test_parts_are_joined_in_the_order_of_their_numbers():
    members = [w.member.rpartition("/")[2] for w in entry("embedded:large").wheels]
    assert members == [f"part{i:02}.bin" for i in range(1, 23)]


def test_the_default_model_names_better_ones_in_one_line():
    notice = entry("embedded").notice
    assert "0.5B" in notice
    assert "\n" not in notice
    for better in ("openai:NAME", "http://", "embedded:large"):
        assert better in notice


def test_an_entry_cannot_be_changed():
    with pytest.raises(ValidationError):
        entry("embedded").bytes = 1


@pytest.mark.parametrize(
    ("asked", "meant"), [("embeded", "embedded"), ("embedded:larg", "embedded:large")]
)
def test_an_unknown_name_gets_the_nearest(asked, meant):
    with pytest.raises(UnknownModel, match=f"nearest is '{meant}'"):
        entry(asked)
