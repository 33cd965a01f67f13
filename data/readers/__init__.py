"""Dataset readers: one file per dataset, all giving the same scene types."""
