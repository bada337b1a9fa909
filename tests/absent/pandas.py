"""In processes that tests start, a package that is not there: timm would import it, for a second."""

raise ImportError("absent in the processes of tests")
