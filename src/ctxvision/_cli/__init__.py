"""The subcommands of ``ctxvision``; only the standard library is imported until one of them runs."""
