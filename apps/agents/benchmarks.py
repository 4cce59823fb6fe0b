"""x"""
import subprocess, sys
from contextlib import contextmanager
from apps.operations.benchmarks import furnish
from apps.operations.startup import CHECKOUT
@contextmanager
def _m():
    p = subprocess.Popen([sys.executable, "-m", "apps.agents.benchmark.model_server"], cwd=CHECKOUT, stdout=subprocess.PIPE)
    try:
        yield {"NETRA_EXTENSIONS": "apps.agents.benchmark.workload", "NETRA_WORKFLOW": "benchmark_bare"}
    finally:
        p.kill(); p.wait()
furnish(_m)
