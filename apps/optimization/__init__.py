"""What an LLM bill could save, computed on the owner's own calls.

A file is read (`readers/`, by its bytes), understood (`importers/`, by its columns), checked and priced (`conversion`)
and kept as one Parquet of calls (`calls`). Strategies (`simulators/`, one per file) and the other analyses read only
that. Everything here but models, services, tasks and the edges works without Django.
"""
