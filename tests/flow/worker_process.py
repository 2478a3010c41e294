"""
A worker process as `teller worker` starts it, with its settings from the environment.
"""

import os
import sys

from processor import log
from processor.settings import Settings
from workers.worker.main import run_worker

log.configure()
sys.exit(run_worker(Settings.from_environment(os.environ)))
