"""Reports, evaluations and explanations as HTML pages that need no other file, no script and no font."""
