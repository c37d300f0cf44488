"""A RAG app with LangChain: evidence with offsets, an answer made of it, and a whole reading.

    pip install 'longdoc-reader[langchain]' langchain-openai
    python examples/rag_langchain.py http://127.0.0.1:8000/v1 MODEL

Any OpenAI-compatible server will do. The document is the tale that the library ships.
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_openai import ChatOpenAI

from reader import Reader
from reader.integrations.langchain import ReadingChain, ReadingRetriever

QUESTION = "What is the sergeant-major's name?"
PROMPT = ChatPromptTemplate.from_template(
    "Answer in a few words, from these passages only.\n\n{passages}\n\nQuestion: {question}"
)


def numbered(found: list[Document]) -> str:
    return "\n".join(f"[{n}] {d.page_content}" for n, d in enumerate(found, 1))


def main(address: str, model: str) -> None:
    llm = ChatOpenAI(base_url=address, model=model, api_key="none", max_retries=0)
    with as_file(files("reader") / "tales" / "the_monkeys_paw.txt") as path:
        # What a loader of LangChain gives.
        loaded = [Document(Path(path).read_text(), metadata={"source": Path(path).name})]

    with Reader(llm) as reader:
        print("Evidence")
        retriever = ReadingRetriever(reader=reader, document=loaded, strategy="rag")
        for found in retriever.invoke(QUESTION):
            place = "{source}, characters {start}-{end}".format(**found.metadata)
            print(f"  {place}: {found.page_content!r}")

        print("A chain of one's own over it")
        chain = (
            {"passages": retriever | numbered, "question": RunnablePassthrough()}
            | PROMPT
            | llm
            | StrOutputParser()
        )
        print(f"  {chain.invoke(QUESTION)}")

        print("A reading of the whole text, streamed")
        reading = ReadingChain(reader=reader, document=loaded, strategy="coa")
        print("  ", end="")
        for piece in reading.stream(QUESTION):
            print(piece.get("answer", ""), end="", flush=True)
            if "reading" in piece:
                answer = piece["reading"]
        used = answer.usage
        print(f"\n  {answer.status}, read {answer.coverage.share:.0%}, {used.calls} calls")


if __name__ == "__main__":
    main(*sys.argv[1:3])
