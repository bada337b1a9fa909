"""What other people's packages have to be told about ours: import the module of a package to use it there.

Nothing here is imported by ctxvision itself, and each module needs the package whose name it has.
"""
