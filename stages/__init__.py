"""One file per stage, one pure entry ``run(inputs, cfg, ...)`` each."""
