"""The shape of MemWalker's tree, which is fixed before any call."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reader import Document
from reader.chunking import Chunk
from reader.strategies.memwalker_tree import Tree, plain_tree, section_tree


def levels(tree: Tree) -> list[int]:
    return [sum(n.level == level for n in tree) for level in range(tree.depth + 1)]


def lines(text: str) -> tuple[Document, list[Chunk]]:
    """A Markdown document of which every blank-line separated block is a chunk."""
    document = Document.from_text(text, name="book.md")
    chunks, start = [], 0
    for i, block in enumerate(document.text.split("\n\n")):
        end = min(start + len(block) + 2, len(document.text))
        chunks.append(Chunk(i, start, end, len(block.split()), start))
        start = end
    return document, chunks


def test_a_hundred_chunks_in_eights_are_116_nodes_in_four_levels():
    tree = plain_tree(100, 8)
    assert levels(tree) == [100, 13, 2, 1]
    assert {len(n.children) for n in tree if n.level == 1} == {7, 8}
    assert tree.way(99)[0] == tree.root
    assert len(tree.way(99)) == 4


@given(chunks=st.integers(1, 400), most=st.integers(2, 20))
def test_every_node_holds_its_stretch_and_none_has_a_lone_child(chunks, most):
    tree = plain_tree(chunks, most)
    top = tree[tree.root]
    assert (top.first, top.last) == (0, chunks - 1)
    for node in tree:
        if node.children:
            below = [tree[c] for c in node.children]
            assert 2 <= len(below) <= most
            assert all(a.last + 1 == b.first for a, b in pairwise(below))
            assert (node.first, node.last) == (below[0].first, below[-1].last)
        else:
            assert node.first == node.last == node.id


def test_sections_are_nodes_and_those_of_one_chunk_are_leaves():
    document, chunks = lines(
        "# One\nfirst words\n\nmore words\n\n# Two\nonly words\n\n# Three\nthird\n\n"
        "## Three A\ninner\n\ninner two\n\n## Three B\nlast"
    )
    tree = section_tree(document, chunks, 8)
    assert tree is not None
    top = tree[tree.root]
    children = [tree[c] for c in top.children]
    assert [(c.kind, c.title) for c in children] == [
        ("section", "One"),
        ("leaf", "Two"),
        ("section", "Three"),
    ]
    inner = [tree[c] for c in children[2].children]
    assert [(c.kind, c.title) for c in inner] == [
        ("leaf", ""),
        ("section", "Three A"),
        ("leaf", "Three B"),
    ]
    assert not any(n.kind == "merge" for n in tree)


def test_a_section_of_many_chunks_has_merged_levels_and_many_sections_have_none():
    document, chunks = lines("# One\nwords\n\n" + "words\n\n" * 20 + "# Two\nwords")
    tree = section_tree(document, chunks, 4)
    assert tree is not None
    assert any(n.kind == "merge" for n in tree)
    assert all(len(n.children) <= 4 for n in tree)
    document, chunks = lines("\n\n".join(f"# Section {i}\nwords" for i in range(20)))
    tree = section_tree(document, chunks, 4)
    assert tree is not None
    assert not any(n.kind == "merge" for n in tree)
    assert all(len(n.children) <= 4 for n in tree)
    assert {"Section 0 to Section 3"} <= {n.title for n in tree}


def test_a_chunk_over_several_sections_belongs_to_what_holds_them_all():
    text = "# All\nintro words\n\n## A\na words\n## B\nb words\n\n## C\nc words\n\nmore of c"
    document, chunks = lines(text)
    tree = section_tree(document, chunks, 8)
    assert tree is not None
    top = tree[tree.root]
    assert top.title == "All"
    assert [tree[c].title for c in top.children] == ["", "", "C"]


def test_without_headings_there_is_no_such_tree():
    document, chunks = lines("words\n\nwords\n\nwords")
    assert section_tree(document, chunks, 8) is None
