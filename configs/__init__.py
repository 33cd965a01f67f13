"""Scene sets, experiments and defaults as YAML; read by ``pipeline.config``."""
