"""
A courier process as `teller courier` starts it, with its settings from the environment.
"""

import os
import sys

from processor import log
from processor.settings import Settings
from workers.courier.main import run_courier

log.configure()
sys.exit(run_courier(Settings.from_environment(os.environ)))
