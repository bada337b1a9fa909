"""The processes of a run: who starts them, how they find each other and how they agree."""
