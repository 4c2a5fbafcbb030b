"""`python -m linnet`."""

import sys

from linnet.engine.cli.main import main

sys.exit(main())
