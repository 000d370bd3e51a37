"""The lowering rules, one file each: every module here has a ``RULE`` (``registry.LoweringRule``)."""
