"""`python -m tools.docs`."""

from tools.docs.pages import main

raise SystemExit(main())
