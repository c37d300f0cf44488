"""The library inside other people's frameworks; each module is imported only when asked for.

``langchain``, ``langgraph``, ``llamaindex`` and ``mcp``. Those that need a package which the base
install does not bring raise ``MissingExtra`` when they are imported without it.
"""
