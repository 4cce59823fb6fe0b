"""The suite's own PostgreSQL and Redis: real ones, on private sockets, gone when the suite ends.

Loaded as a plugin (`-p tests.services`), so that the environment is set before Django reads it. With DATABASE_URL and
REDIS_URL set, those are used instead.
"""
