from ctxvision.ops.contextual_conv.reference import backward, contextual_conv  # noqa: F401
