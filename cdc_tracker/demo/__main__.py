"""python -m cdc_tracker.demo"""

import sys

from cdc_tracker.demo.command import main

sys.exit(main(sys.argv[1:]))
