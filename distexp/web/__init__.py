"""The live page: a server that asks the manager, and tells browsers."""
